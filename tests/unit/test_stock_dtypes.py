"""Whether stock is faster in another dtype: kept by machine, said only when true, measured only while nobody races."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from eet_demo.machine.gpu import Gpu
from eet_demo.race import background, session
from eet_demo.race.background import QUIET_NS, StockDtypesMeasurement
from eet_demo.race.race import Race, result_of
from eet_demo.race.resources import RaceResources
from eet_demo.race.session import preload
from eet_demo.records import Hardware, RaceSettings
from eet_demo.results.stock_dtypes import StockDtypes
from eet_demo.sides import build
from eet_demo.sides.side import SideOptions
from eet_demo.worker.handle import WorkerHandle
from tests.fake_clock import FakeTime
from tests.fake_workers import FakeMachine, Play, resources_of, settings_of, write_model

FOLDER_SETTINGS = RaceSettings("smollm2-135m", context=64, new_tokens=6)


@pytest.fixture
def known(tmp_path: Path) -> StockDtypes:
    versions = {"torch": "2.13.0", "transformers": "5.23.0"}
    return StockDtypes(tmp_path / "cache" / "stock-dtypes.json", Hardware("Some CPU", 2, 2**30), versions, 2)


def test_note_names_a_faster_dtype_with_its_figures(known: StockDtypes) -> None:
    assert known.note(FOLDER_SETTINGS) is None, "nothing is measured yet"
    known.keep("smollm2-135m", {"float32": 20.0, "bfloat16": 31.0})
    note = known.note(FOLDER_SETTINGS)
    assert note is not None
    assert "1.55 times as fast in bfloat16" in note
    assert "31.0 against 20.0 tokens/s" in note


@pytest.mark.parametrize(
    ("rates", "changed"),
    [
        ({"float32": 20.0, "bfloat16": 12.0}, {}),
        ({"float32": 20.0, "bfloat16": 20.5}, {}),
        ({"float32": 20.0, "bfloat16": 31.0}, {"dtype": "bfloat16"}),
        ({"float32": 20.0, "bfloat16": 31.0}, {"dtype": "float16"}),
        ({"float32": 20.0, "bfloat16": 31.0}, {"device": "cuda"}),
        ({"float32": 20.0, "bfloat16": 31.0}, {"model": "gpt2"}),
    ],
)
def test_note_is_silent_when_stock_gains_nothing(known: StockDtypes, rates: dict[str, float], changed: Any) -> None:
    known.keep("smollm2-135m", rates)
    assert known.note(dataclasses.replace(FOLDER_SETTINGS, **changed)) is None


def test_figures_hold_for_this_machine_and_these_versions_only(known: StockDtypes) -> None:
    known.keep("smollm2-135m", {"float32": 1.0, "bfloat16": 2.0})
    known.keep("gpt2", {"float32": 3.0, "bfloat16": 4.0})
    assert known.rates("smollm2-135m") == {"float32": 1.0, "bfloat16": 2.0}
    for changed in ({"threads": 1}, {"hardware": Hardware("Other CPU", 2, 1)}, {"software": {"torch": "2.14"}}):
        assert dataclasses.replace(known, **changed).rates("smollm2-135m") is None


@pytest.mark.parametrize("content", ["", "no json", "{"])
def test_a_broken_file_is_measured_anew(known: StockDtypes, content: str) -> None:
    known.path.parent.mkdir()
    known.path.write_text(content)
    assert known.rates("smollm2-135m") is None
    known.keep("smollm2-135m", {"float32": 1.0})
    assert json.loads(known.path.read_text())


def test_a_folder_that_cannot_be_written_costs_the_figures_only(known: StockDtypes) -> None:
    known.path.parent.write_text("a file where the folder should be")
    known.keep("smollm2-135m", {"float32": 1.0})
    assert known.rates("smollm2-135m") is None


class Track:
    """A fake machine where stock decodes 100 tokens a second in float32 and 200 in bfloat16.

    Measurements wait to be run by the test, in its own thread, on its clock.
    """

    def __init__(self, folder: Path, known: StockDtypes) -> None:
        self.time, self.model = FakeTime(), write_model(folder)
        self.machine = FakeMachine(self.time)
        self.machine.plays |= {"stock float32": Play(rate=100), "stock bfloat16": Play(rate=200)}
        self.resources = resources_of(self.machine, folder)
        self.resources.stock_dtypes = self.known = known

    def race(self, *sides: str, **changed: Any) -> dict[str, Any]:
        return result_of(Race(settings_of(self.model, *sides, **changed), self.resources).run())

    @property
    def measurement(self) -> StockDtypesMeasurement:
        assert isinstance(self.resources.background, StockDtypesMeasurement)
        return self.resources.background


@pytest.fixture
def track(tmp_path: Path, known: StockDtypes, monkeypatch: pytest.MonkeyPatch) -> Iterator[Track]:
    made = Track(tmp_path, known)
    monkeypatch.setattr(StockDtypesMeasurement, "start", lambda measurement: None)
    monkeypatch.setattr(build, "side_bytes", lambda options: made.machine.play_of(options).needs)
    yield made
    made.resources.close()


def test_measured_once_after_a_race_and_said_in_the_next(track: Track, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not any("bfloat16" in note for note in track.race()["notes"])
    track.measurement.run()
    rates = track.known.rates(track.model)
    assert rates is not None
    assert dict(rates) == {"float32": pytest.approx(100), "bfloat16": pytest.approx(200)}
    workers = [(handle.options.side, handle.options.dtype) for handle in track.resources.pool.handles]
    assert workers == [("stock", "float32"), ("engine", "float32")], "the race's stay, the measurement's own does not"
    first = track.measurement
    assert "bfloat16" in track.race()["notes"][-1]
    assert track.measurement is first, "once is enough"


def test_measured_only_once_nobody_has_raced_for_a_while(track: Track) -> None:
    """A race without stock is one, too: quiet is counted from the last of them."""
    track.race()
    ended_ns = track.time.now_ns
    assert track.resources.raced_ns == ended_ns
    seen: list[int] = []
    track.time.at(3, lambda: setattr(track.resources, "raced_ns", track.time.now_ns))
    track.time.at(7.9, lambda: seen.append(len(track.machine.children)))
    track.time.at(9, lambda: seen.append(len(track.machine.children)))
    track.measurement.run()
    assert seen == [2, 2]
    assert track.time.now_ns > ended_ns + 3e9 + QUIET_NS
    assert track.known.rates(track.model) is not None


def test_a_measurement_that_gives_way_ends_within_a_second_and_is_begun_anew(track: Track) -> None:
    track.machine.plays["stock bfloat16"] = Play(rate=0.1)
    track.race()
    track.time.at(30, lambda: track.measurement.give_way())
    begin_ns = track.time.now_ns
    track.measurement.run()
    assert 30e9 <= track.time.now_ns - begin_ns < 31.2e9
    assert track.known.rates(track.model) is None
    assert track.resources.turn.acquire(blocking=False)
    track.resources.turn.release()
    first = track.measurement
    track.race()
    assert track.measurement is not first


def test_a_measurement_that_waits_for_the_turn_gives_way_too(track: Track) -> None:
    track.race()
    with track.resources.turn:
        track.time.at(8, lambda: track.measurement.give_way())
        track.measurement.run()
    assert len(track.machine.children) == 2
    assert not track.measurement.running


def test_a_measurement_waits_until_what_stop_ended_is_loaded_again(track: Track) -> None:
    track.machine.plays["stock bfloat16"] = Play(rate=200, deaf=True, prefill_s=40, load_s=60)
    race = Race(settings_of(track.model, "stock", dtype="bfloat16"), track.resources)
    for batch in race.run():
        if any(update.get("state") == "prefilling" for update in batch):
            race.stop()
    (fresh,) = track.resources.pool.handles
    assert fresh.loading
    loaded: list[bool] = []
    start = track.machine.start

    def started(options: SideOptions, gpu: Gpu | None = None) -> WorkerHandle:
        loaded.append(fresh.loaded)
        return start(options, gpu)

    track.resources.start = started
    track.measurement.run()
    assert loaded == [True]
    assert track.known.rates(track.model) is not None


def test_a_worker_that_fails_to_load_again_does_not_keep_the_measurement(track: Track) -> None:
    track.race("stock")
    track.machine.plays["stock float32"] = Play(rate=100, fails_in=("load", "CheckpointError", "planted"))
    settings = settings_of(track.model, "stock", batch=2)
    track.resources.pool.retain([])
    preload(settings, track.resources.model(Path(track.model)), track.resources)
    track.machine.plays["stock float32"] = Play(rate=100)
    track.measurement.run()
    assert track.known.rates(track.model) is not None


def test_a_measurement_asks_for_memory_and_leaves_the_races_workers(track: Track) -> None:
    track.machine.total_bytes = 100
    track.machine.plays |= {
        "stock float32": Play(needs=50, loaded=50),
        "stock bfloat16": Play(needs=30, loaded=30),
        "engine": Play(needs=40, loaded=40),
    }
    track.race()
    track.measurement.run()
    assert track.machine.resident() == ["stock", "engine"]
    assert track.known.rates(track.model) is None, "there is no room for stock in bfloat16 beside them"


def test_nothing_is_measured_without_a_place_to_keep_it(track: Track) -> None:
    track.resources.stock_dtypes = None
    track.race()
    assert track.resources.background is None


def test_a_race_makes_a_real_measurement_give_way(
    race_resources: RaceResources, known: StockDtypes, monkeypatch: pytest.MonkeyPatch
) -> None:
    def play(name: str, settings: RaceSettings, model: Any, threads: int) -> SideOptions:
        scenario = "waits=off" if settings.new_tokens == FOLDER_SETTINGS.new_tokens else "rate=0.1"
        return SideOptions(f"scripted:{scenario}", "", "cpu", settings.dtype, "dense", 1, 1, 200)

    monkeypatch.setattr(session, "side_options", play)
    monkeypatch.setattr(background, "QUIET_NS", 0)
    race_resources.stock_dtypes = known
    result_of(Race(FOLDER_SETTINGS, race_resources).run())
    first = race_resources.background
    assert isinstance(first, StockDtypesMeasurement)
    while not any(handle.busy for handle in race_resources.pool.handles):
        time.sleep(0.01)
    trace = result_of(Race(FOLDER_SETTINGS, race_resources).run())
    assert [side["state"] for side in trace["sides"]] == ["done", "done"]
    first.join(300)
    assert not first._thread.is_alive()
    assert known.rates("smollm2-135m") is None
    assert race_resources.background is not first, "begun anew after that race"
    race_resources.background.give_way()  # type: ignore[union-attr]
