"""A race end to end between scripted sides in real workers: updates, text, Stop, faults, a closed tab.

What depends on time is in `test_session`.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest

from eet_demo.errors import CheckpointError, RequestError
from eet_demo.race import inputs, session
from eet_demo.race.lane import Lane
from eet_demo.race.race import Race
from eet_demo.race.resources import RaceResources
from eet_demo.text.prompts import build_prompt
from eet_demo.text.tokens import Tokenizer
from tests.real_races import Started, Update, columns, race_settings, run_race, trace_of


def test_race_updates_add_up_to_the_trace(race_resources: RaceResources, model_dir: Path) -> None:
    sides = ("scripted:rate=300,passes=3,waits=off", "scripted:rate=600,differ_at=7,waits=off")
    updates = run_race(race_resources, race_settings(*sides, batch=2, ragged=True, question="Why?"))
    trace = trace_of(updates)
    assert updates[0]["kind"] == "race"
    assert updates[0]["pair"] == (0, 1), "of which the page shows the ratio"
    assert updates[0]["prompt_tokens"] == trace["prompt_ids"]
    assert [len(row) for row in trace["prompt_ids"]] == [64, 48]
    tokenizer = Tokenizer(model_dir)
    for index, side in enumerate(trace["sides"]):
        assert side["name"] == sides[index]
        assert side["state"] == "done"
        assert columns(updates, index) == side["tokens"]
        for row in range(2):
            ids = [i for r, i in zip(side["tokens"]["row"], side["tokens"]["id"], strict=True) if r == row]
            text = [t for r, t in zip(side["tokens"]["row"], side["tokens"]["text"], strict=True) if r == row]
            assert len(ids) == 12
            assert "".join(text) == tokenizer.decode(ids)
        assert [phase["name"] for phase in side["phases"]] == ["loading", "warm-up", "prefill", "decode"]
        assert side["phases"][2]["start_ns"] == 0
        assert side["memory"]["process_bytes"][-1] > 2**20
        assert side["memory"]["weights_bytes"][-1] == 100 * 2**20
    assert trace["sides"][0]["progress"]["done"][-1] == 112
    expected = {"equal_tokens": 7, "first_divergence": 7, "margin_at_divergence": 0.25}
    assert trace["parity"] == [expected, expected] == updates[-1]["parity"]
    assert updates[-1]["metrics"][0]["new_tokens"] == 24
    assert updates[-1]["speedup"]["decode"] == pytest.approx(2)


def test_prompts_are_built_once_a_race(race_resources: RaceResources, monkeypatch: pytest.MonkeyPatch) -> None:
    """Press, race and sides ask for the same ones; a model that was opened again is another one."""
    built: list[str] = []

    def counted(tokenizer: Tokenizer, prompt: str, question: str, *sizes: Any) -> list[list[int]]:
        built.append(question)
        return build_prompt(tokenizer, prompt, question, *sizes)

    monkeypatch.setattr(inputs, "build_prompt", counted)
    settings = race_settings("scripted:waits=off", question="Once?")
    race_resources.check(settings)
    trace_of(run_race(race_resources, settings))
    race_resources.check(race_settings("scripted:waits=off", question="Another?"))
    assert built == ["Once?", "Another?"]
    race_resources._models.clear()
    race_resources.check(settings)
    assert built == ["Once?", "Another?", "Once?"]


def test_race_uses_workers_again_and_says_that_warm_up_is_skipped(
    race_resources: RaceResources, started: Started
) -> None:
    first = trace_of(run_race(race_resources, race_settings()))
    pids = {child.pid for child in started()}
    second = trace_of(run_race(race_resources, race_settings()))
    assert pids & {child.pid for child in started()} == pids
    assert "12 tokens" in first["sides"][0]["phases"][1]["detail"]
    warm_up = second["sides"][0]["phases"][0]
    assert warm_up["name"] == "warm-up"
    assert "skipped" in warm_up["detail"]
    assert second["sides"][0]["memory"]["weights_bytes"][0] == 100 * 2**20
    longer = trace_of(run_race(race_resources, race_settings(new_tokens=13)))
    assert "loading" in [phase["name"] for phase in longer["sides"][0]["phases"]], (
        "a larger request needs a larger plan"
    )


@pytest.fixture
def no_warm_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """A script is as quick the first time, and one that takes an hour is not waited for."""
    monkeypatch.setattr(Lane, "_warm_up", lambda lane: iter(()))


@pytest.mark.usefixtures("no_warm_up")
def test_race_stopped_while_it_writes_keeps_what_is_written(race_resources: RaceResources) -> None:
    def press(race: Race, update: Update) -> None:
        if update["kind"] == "tokens":
            race.stop()

    slow = "scripted:rate=1,prefill_s=0"
    trace = trace_of(run_race(race_resources, race_settings(slow, slow, new_tokens=1000), press))
    assert [side["state"] for side in trace["sides"]] == ["stopped", "stopped"]
    assert [side["error"] for side in trace["sides"]] == [None, None]
    assert 0 < len(trace["sides"][0]["tokens"]["id"]) < 1000
    again = trace_of(run_race(race_resources, race_settings()))
    assert [side["state"] for side in again["sides"]] == ["done", "done"]


def test_race_stopped_in_a_deaf_prefill_ends_the_worker_and_starts_a_fresh_one(
    race_resources: RaceResources, started: Started
) -> None:
    settings = race_settings("scripted:deaf=on,prefill_s=3600")
    raced: list[int] = []

    def press(race: Race, update: Update) -> None:
        if update["kind"] == "state" and update["state"] == "warming":
            raced.extend(child.pid for child in started())
            race.stop()

    for race in range(2):
        assert trace_of(run_race(race_resources, settings, press))["sides"][0]["state"] == "stopped"
        (fresh,) = started()
        assert len(raced) == race + 1
        assert fresh.pid not in raced
    assert len(set(raced)) == 2, "the second race found the fresh one"


@pytest.mark.parametrize(
    ("fault", "place"), [("die_in", "load"), ("die_in", "prefill"), ("die_in", "decode"), ("fail_in", "decode")]
)
def test_race_with_a_side_that_fails_tells_and_runs_the_other(
    race_resources: RaceResources, fault: str, place: str
) -> None:
    updates = run_race(race_resources, race_settings(f"scripted:{fault}={place}", "scripted:waits=off"))
    error = next(update for update in updates if update["kind"] == "error")
    assert error["side"] == 0
    assert error["remedy"]
    assert ("SIGKILL" if fault == "die_in" else f"fails in {place}") in error["message"]
    trace = trace_of(updates)
    assert [side["state"] for side in trace["sides"]] == ["failed", "done"]
    assert trace["sides"][0]["error"] == {"message": error["message"], "remedy": error["remedy"]}
    assert trace["parity"] is None
    assert updates[-1]["speedup"]["decode"] is None


@pytest.mark.usefixtures("no_warm_up")
def test_race_whose_worker_is_killed_from_outside_tells_and_the_next_one_works(
    race_resources: RaceResources, started: Started
) -> None:
    settings = race_settings("scripted:rate=0.001", new_tokens=20)

    def kill(race: Race, update: Update) -> None:
        if update["kind"] == "tokens":
            for child in started():
                os.kill(child.pid, signal.SIGKILL)

    updates = run_race(race_resources, settings, kill)
    error = next(update for update in updates if update["kind"] == "error")
    assert "signal 9 (SIGKILL)" in error["message"]
    trace = trace_of(updates)
    assert trace["sides"][0]["state"] == "failed"
    assert len(trace["sides"][0]["tokens"]["id"]) == 1, "what was measured until then is kept"
    assert trace_of(run_race(race_resources, race_settings()))["sides"][0]["state"] == "done"


@pytest.mark.parametrize("scenario", ["rate=1", "deaf=on,prefill_s=3600", "load_s=3600"])
def test_race_closed_mid_run_leaves_no_worker_at_work(
    race_resources: RaceResources, started: Started, monkeypatch: pytest.MonkeyPatch, scenario: str
) -> None:
    hears = scenario == "rate=1"
    if hears:  # within a second, unless the machine is busy
        monkeypatch.setattr(session, "ABANDON_NS", 300 * 10**9)
    run = Race(race_settings(f"scripted:{scenario}", new_tokens=64), race_resources).run()
    wanted = "loading float32 weights" if "load" in scenario else "64 tokens before the clock starts"
    for batch in run:
        if any(update["kind"] == "state" and wanted in update["detail"] for update in batch):
            break
    run.close()  # type: ignore[attr-defined]
    left = started()
    assert [child.pid for child in left] == [handle.pid for handle in race_resources.pool.handles]
    assert len(left) == hears, "one that hears Stop stays for the next race"
    assert not any(handle.busy or handle.taken for handle in race_resources.pool.handles)
    assert race_resources.turn.acquire(blocking=False), "the machine must be free for the next visitor"
    race_resources.turn.release()
    assert trace_of(run_race(race_resources, race_settings()))["sides"][1]["state"] == "done"


def test_race_ending_inside_a_character_flushes_its_bytes_and_dims_after_the_end(
    race_resources: RaceResources, model_dir: Path
) -> None:
    tokenizer = Tokenizer(model_dir)
    emoji = tokenizer.encode("🦀")
    assert len(emoji) > 1
    end = tokenizer.stop_ids[0]
    ids = [*tokenizer.encode("Hi"), end, *tokenizer.encode(" again"), *emoji[:-1]]
    script = f"scripted:rate=400,waits=off,ids={'+'.join(map(str, ids))}"
    updates = run_race(race_resources, race_settings(script, new_tokens=len(ids)))
    tokens = trace_of(updates)["sides"][0]["tokens"]
    assert "".join(tokens["text"]) == tokenizer.decode(ids)
    assert tokens["text"][-1].endswith("\ufffd")
    at = ids.index(end)
    assert tokens["after_end"] == [False] * (at + 1) + [True] * (len(ids) - at - 1)
    assert columns(updates, 0) == tokens


@pytest.mark.parametrize("fault", ["fail_in", "die_in"])
def test_race_keeps_its_result_when_the_margin_cannot_be_asked(race_resources: RaceResources, fault: str) -> None:
    sides = (f"scripted:rate=400,waits=off,{fault}=logits", "scripted:rate=400,waits=off,differ_at=3")
    trace = trace_of(run_race(race_resources, race_settings(*sides)))
    assert trace["parity"] == [{"equal_tokens": 3, "first_divergence": 3, "margin_at_divergence": None}]
    assert "margins" in trace["notes"][-1]
    assert trace_of(run_race(race_resources, race_settings()))["sides"][0]["state"] == "done"


def test_race_free_running_stops_at_the_end_token(race_resources: RaceResources, model_dir: Path) -> None:
    end = Tokenizer(model_dir).stop_ids[0]
    script = f"scripted:rate=400,waits=off,ids=504+253+{end}+260"
    updates = run_race(race_resources, race_settings(script, "scripted:rate=50,waits=off,ids=504", free_running=True))
    first, second = trace_of(updates)["sides"]
    assert first["tokens"]["id"] == [504, 253, end]
    assert len(second["tokens"]["id"]) == 12
    assert updates[-1]["speedup"]["end_to_end"] < 1


@pytest.mark.parametrize("text", ["🦀🦀 crab", "\u202eright to left: مرحبا", "a\x00b"])
def test_race_takes_odd_unicode_in_the_prompt(race_resources: RaceResources, text: str) -> None:
    updates = run_race(race_resources, race_settings("scripted:waits=off", prompt=f"text:{text}", new_tokens=2))
    trace = trace_of(updates)
    text_seen = trace["prompt_text"].encode("utf-8").decode("utf-8")
    assert text.strip("\x00")[:4] in text_seen


def test_race_on_a_folder_without_a_tokenizer_uses_random_ids(race_resources: RaceResources, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"vocab_size": 50, "max_position_embeddings": 90}', encoding="utf-8")
    settings = race_settings("scripted:waits=off", model=str(tmp_path), context=70, new_tokens=20)
    trace = trace_of(run_race(race_resources, settings))
    assert len(trace["prompt_ids"][0]) == 70
    assert max(trace["prompt_ids"][0]) < 50
    assert "random ids" in trace["notes"][0]
    assert set(trace["sides"][0]["tokens"]["text"]) == {""}
    assert trace_of(run_race(race_resources, settings))["prompt_ids"] == trace["prompt_ids"]
    with pytest.raises(RequestError, match="limit is 90"):
        race_resources.check(race_settings("scripted", model=str(tmp_path), context=71, new_tokens=20))
    (tmp_path / "config.json").write_text("{}", encoding="utf-8")
    race_resources._models.clear()
    with pytest.raises(CheckpointError, match="context limit"):
        race_resources.check(settings)
