"""The engine as a lane, on small random checkpoints: what it reports is what the engine did."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from eet_demo import Engine, Sampling
from eet_demo.errors import RequestError, UnsupportedError
from eet_demo.paths import IMPORT_ROOT
from eet_demo.race.race import Race
from eet_demo.race.resources import RaceResources
from eet_demo.records import RaceSettings, as_json
from eet_demo.results.trace import validate_trace
from eet_demo.sides import build
from eet_demo.sides.engine import EngineSide, engine_options, planned_bytes
from eet_demo.sides.side import Roofline, RunRequest, SideOptions, StopRun
from tests.parity.checkpoints import make_checkpoint

PROMPTS = ((17, 5, 93, 200, 41, 8, 77), (4,), (9, 300, 12))


class ListSink:
    """Keeps what a run reports; asks to stop once `stop_when` says so."""

    def __init__(self, stop_when: str = "") -> None:
        self.stopped = False
        self.started_ns: list[int] = []
        self.steps: list[list[int | None]] = []
        self.times_ns: list[int] = []
        self.passes: list[tuple[int, int]] = []
        self._stop_when = stop_when

    def started(self, time_ns: int) -> None:
        self.started_ns.append(time_ns)

    def tokens(self, time_ns: int, token_ids: Sequence[int | None]) -> None:
        self.times_ns.append(time_ns)
        self.steps.append(list(token_ids))
        self.stopped = self._stop_when == "decode"

    def progress(self, done_tokens: int, total_tokens: int) -> None:
        self.passes.append((done_tokens, total_tokens))
        self.stopped = self._stop_when == "prefill"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("checkpoints") / "llama"
    make_checkpoint(made, "llama", seed=3)
    return made


def options(folder: Path, side: str = "engine", **changed: Any) -> SideOptions:
    plain = SideOptions(
        side, str(folder), device="cpu", dtype="float32", weights="dense", threads=1, max_batch=3, max_context=32
    )
    return replace(plain, **changed)


def loaded(folder: Path, side: str = "engine", **changed: Any) -> EngineSide:
    made = EngineSide(options(folder, side, **changed))
    made.compile()
    made.load()
    return made


def request(new_tokens: int = 12, stop: tuple[int, ...] = ()) -> RunRequest:
    return RunRequest(PROMPTS, new_tokens, Sampling(), stop)


@pytest.mark.parametrize("device", ["cpu", "reference"])
def test_engine_side_reports_what_the_engine_generates(folder: Path, device: str) -> None:
    side = loaded(folder, "engine:prefill_chunk=4", device=device)
    with Engine.from_pretrained(folder, device=device, max_batch=3, max_context=32) as engine:
        expected = engine.generate(PROMPTS, 12).token_ids
    sink = ListSink()
    clock = side.run(request(), sink)
    assert [list(row) for row in zip(*sink.steps, strict=True)] == expected
    assert sink.passes == [(4, 11), (8, 11), (11, 11)]
    stamps = [clock.start_ns, *sink.times_ns, clock.end_ns]
    assert stamps == sorted(stamps)
    assert sink.started_ns == [clock.start_ns]
    side.close()


def test_engine_side_ends_rows_at_a_stop_token(folder: Path) -> None:
    side = loaded(folder)
    sink = ListSink()
    side.run(request(), sink)
    end = sink.steps[2][0]
    assert end is not None
    ended = ListSink()
    side.run(request(stop=(end,)), ended)
    assert ended.steps[2][0] == end
    assert {step[0] for step in ended.steps[3:]} == {None}


@pytest.mark.parametrize(("stop_when", "passes", "steps"), [("prefill", 1, 0), ("decode", 3, 1)])
def test_engine_side_stops_between_passes_and_steps_and_runs_again(
    folder: Path, stop_when: str, passes: int, steps: int
) -> None:
    side = loaded(folder, "engine:prefill_chunk=4")
    sink = ListSink(stop_when)
    with pytest.raises(StopRun):
        side.run(request(), sink)
    assert (len(sink.passes), len(sink.steps)) == (passes, steps)
    again = ListSink()
    side.run(request(), again)
    assert len(again.steps) == 12


def test_engine_side_memory_is_the_plan_and_what_the_run_has_cached(folder: Path) -> None:
    side = loaded(folder)
    plan = Engine.plan(folder, max_batch=3, max_context=32)
    assert planned_bytes(options(folder)) == plan.total_bytes
    side.run(request(), ListSink())
    kinds = side.memory_bytes()
    assert kinds["weights"] == plan.weights_bytes
    assert kinds["kv_cache_reserved"] == plan.kv_cache_bytes
    assert kinds["workspace"] == plan.workspace_bytes
    slots = sum(map(len, PROMPTS)) + 3 * 11  # the last token of a row is never fed back, so it is never cached
    assert kinds["kv_cache_used"] == plan.kv_cache_bytes * slots // (3 * 32)


def test_engine_side_logits_and_roofline_are_the_engines(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    side = loaded(folder)
    with Engine.from_pretrained(folder, max_batch=3, max_context=32) as engine:
        np.testing.assert_array_equal(side.logits_at(PROMPTS[0]), engine.prefill_logits([PROMPTS[0]])[0])
        monkeypatch.setattr(side._loaded(), "measure_bandwidth_gb_s", lambda: 12.5)
        assert side.roofline(20, 3) == Roofline(engine.bytes_per_token(20, 3) * 3, 12.5)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("engine:split_kv=on", "split_kv is one of off, split, stream"),
        ("engine:colour=red", "no option 'colour'.*prefill_chunk"),
        ("engine:debug=maybe", "on or off"),
        ("engine:prefill_chunk=many", "takes a number"),
        ("engine:threads=64", "threads is no option of a side: threads are the same for every side"),
        ("engine:debug=on,threads=1", "threads is no option of a side"),
    ],
)
def test_engine_side_refuses_an_option_it_cannot_switch(folder: Path, name: str, words: str) -> None:
    with pytest.raises(RequestError, match=words):
        planned_bytes(options(folder, name))


def test_engine_options_are_the_races_threads_and_the_names_switches(folder: Path) -> None:
    words = [engine_options(options(folder, f"engine:split_kv={word}")).split_kv for word in ("off", "stream")]
    assert words == ["off", "stream"]
    found = engine_options(options(folder, "engine:debug=on,prefill_chunk=64", threads=2))
    assert (found.threads, found.debug, found.prefill_chunk) == (2, True, 64)


@pytest.mark.parametrize(("device", "threads"), [("cpu", 2), ("reference", None)])
def test_engine_side_says_how_many_threads_there_are_and_not_how_many_were_asked_for(
    folder: Path, device: str, threads: int | None
) -> None:
    side = EngineSide(options(folder, device=device, threads=2))
    side.compile()
    assert side.load().threads == threads
    side.close()


def test_engine_side_refuses_what_the_executor_lacks(folder: Path) -> None:
    with pytest.raises(UnsupportedError, match="'float64'; supported: float32"):
        planned_bytes(options(folder, dtype="float64"))
    with pytest.raises(UnsupportedError, match="does not know the option graph"):
        planned_bytes(options(folder, "engine:graph=off"))
    with pytest.raises(RequestError, match="compile and load come first"):
        EngineSide(options(folder)).memory_bytes()


@pytest.mark.slow
def test_engine_worker_on_cpu_imports_neither_torch_nor_the_page(folder: Path) -> None:
    script = (
        "import sys\n"
        "from eet_demo.worker import process as worker\n"
        "main = worker.Worker.close\n"
        "def close(self):\n"
        "    main(self)\n"
        "    banned = {'torch', 'transformers', 'gradio', 'pydantic', 'pydantic_settings', 'cupy', 'tokenizers'}\n"
        "    print('LOADED', sorted(banned & {name.split('.')[0] for name in sys.modules}), file=sys.stderr)\n"
        "worker.Worker.close = close\n"
        "worker.main()\n"
    )
    run = {"cmd": "run", "request": as_json(request(3)), "warm_up": False}
    commands = [{"cmd": "import", "options": as_json(options(folder))}, {"cmd": "load"}, run, {"cmd": "close"}]
    done = subprocess.run(
        [sys.executable, "-c", script],
        input="".join(json.dumps(command) + "\n" for command in commands),
        capture_output=True,
        text=True,
        cwd=IMPORT_ROOT,
        timeout=60,
    )
    assert [json.loads(line)["event"] for line in done.stdout.splitlines()][-2:] == ["finished", "closed"], done.stderr
    assert "LOADED []" in done.stderr


@pytest.mark.slow
def test_race_between_stock_and_engine_writes_the_same_tokens(race_resources: RaceResources, folder: Path) -> None:
    settings = RaceSettings(str(folder), context=20, new_tokens=30, batch=2, ragged=True)
    updates = [update for batch in Race(settings, race_resources).run() for update in batch]
    trace = validate_trace(updates[-1]["trace"])
    assert [side["state"] for side in trace["sides"]] == ["done", "done"], updates
    equal = {"equal_tokens": 30, "first_divergence": None, "margin_at_divergence": None}
    assert trace["parity"] == [equal, equal]
    stock, engine = trace["sides"]
    assert stock["config"]["details"]["cache"] == "DynamicCache"
    assert stock["config"]["threads"] == engine["config"]["threads"] == race_resources.threads
    assert engine["progress"]["done"][-1] == 35
    for side in trace["sides"]:
        assert {"process_bytes", "process_peak_bytes", "weights_bytes", "kv_cache_used_bytes"} <= set(side["memory"])


@pytest.mark.slow
def test_race_in_turns_when_both_do_not_fit_loads_each_for_its_turn(
    race_resources: RaceResources, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = RaceSettings(str(folder), context=20, new_tokens=8)
    monkeypatch.setattr(build, "side_bytes", lambda options: 600_000_000)
    race_resources.available_bytes = lambda: 700_000_000
    for _ in range(2):  # the second race finds the engine loaded, which must not keep stock from its turn
        updates = [update for batch in Race(settings, race_resources).run() for update in batch]
        trace = validate_trace(updates[-1]["trace"])
        assert [side["state"] for side in trace["sides"]] == ["done", "done"]
        assert "each is loaded for its turn" in trace["notes"][-1]
        assert trace["parity"][0]["equal_tokens"] == 8
        loaded = [handle.options.side for handle in race_resources.pool.handles if handle.loaded]
        assert loaded == ["engine"]
