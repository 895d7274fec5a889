"""Races in no time: order, pace, Stop and what is told, against workers that obey a fake clock."""

from __future__ import annotations

import dataclasses
import itertools
import threading
from pathlib import Path

import pytest

from eet_demo.declared import Limits
from eet_demo.errors import EetError, StoppedError
from eet_demo.race import race as runner
from eet_demo.race import session
from eet_demo.race.race import Race, result_of
from eet_demo.race.session import preload
from tests.fake_workers import Play, settings_of
from tests.track import Track, Update, phases_of, states_of, trace_of


def test_in_turn_each_side_has_the_machine_alone(track: Track) -> None:
    track.machine.plays |= {"stock": Play(rate=20), "engine": Play(rate=50, prefill_s=0.25)}
    updates = track.race()
    order = states_of(updates)
    assert [state for side, state in order if side == 0][-3:] == ["prefilling", "decoding", "done"]
    assert order.index((0, "done")) < order.index((1, "warming"))
    assert order.index((1, "waiting")) < order.index((0, "prefilling"))
    trace = trace_of(updates)
    assert phases_of(trace, 0)["prefill"] == 0.5
    assert phases_of(trace, 0)["decode"] == pytest.approx(10 / 20)
    assert updates[-1]["speedup"] == {
        "decode": pytest.approx(2.5),
        "prefill": pytest.approx(2),
        "ttft": pytest.approx(2),
        "end_to_end": pytest.approx(1 / 0.45),
    }


def test_together_both_write_at_the_same_time(track: Track) -> None:
    updates = track.race(schedule="together")
    started = [side["phases"][-2]["start_ns"] for side in trace_of(updates)["sides"]]
    assert started == [0, 0]
    first_done = next(at for at, update in enumerate(updates) if update.get("state") == "done")
    assert {update["side"] for update in updates[:first_done] if update["kind"] == "tokens"} == {0, 1}


def test_compiling_is_a_phase_of_its_own_and_comes_once(track: Track) -> None:
    track.machine.plays["engine"] = Play(compile_s=0.4, load_s=0.3)
    first = phases_of(trace_of(track.race("engine")), 0)
    assert list(first) == ["compiling", "loading", "warm-up", "prefill", "decode"]
    assert first["compiling"] == pytest.approx(0.4, abs=0.051), "to a tick"
    assert first["loading"] == pytest.approx(0.3, abs=0.051)
    assert list(phases_of(trace_of(track.race("engine")), 0)) == ["warm-up", "prefill", "decode"]


def test_updates_come_twenty_times_a_second(track: Track) -> None:
    race = Race(track.settings("stock"), track.resources)
    at_ns = [track.time.now_ns for _ in race.run()]
    gaps = {later - earlier for earlier, later in itertools.pairwise(at_ns[:-1])}
    assert gaps == {50_000_000}


@pytest.mark.parametrize("at", ["waiting", "loading", "warming", "prefilling", "decoding"])
def test_stop_at_any_moment_ends_within_a_second_with_a_valid_trace(track: Track, at: str) -> None:
    track.machine.plays |= {"stock": Play(load_s=5, prefill_s=5, rate=2), "engine": Play()}
    pressed: list[int] = []

    def press(race: Race, update: Update) -> None:
        side = 1 if at == "waiting" else 0
        if update["kind"] == "state" and update["state"] == at and update["side"] == side and not pressed:
            pressed.append(track.time.now_ns)
            race.stop()

    updates = track.race(on_update=press)
    assert track.time.now_ns - pressed[0] < 1.2e9
    trace = trace_of(updates)
    assert [side["state"] for side in trace["sides"]] == ["stopped", "stopped"]
    assert [side["error"] for side in trace["sides"]] == [None, None]
    assert len(trace["sides"][0]["tokens"]["id"]) == (at == "decoding")
    assert [side["state"] for side in trace_of(track.race())["sides"]] == ["done", "done"]


def test_stop_in_a_deaf_prefill_ends_the_worker_after_a_second_and_loads_a_fresh_one(track: Track) -> None:
    track.machine.plays["stock"] = Play(deaf=True, prefill_s=40)
    pressed: list[int] = []

    def press(race: Race, update: Update) -> None:
        if update["kind"] == "state" and update["state"] == "prefilling":
            pressed.append(track.time.now_ns)
            race.stop()

    updates = track.race("stock", on_update=press)
    assert 1e9 < track.time.now_ns - pressed[0] < 1.2e9
    assert trace_of(updates)["sides"][0]["state"] == "stopped"
    first, fresh = track.machine.of("stock")
    assert first.killed
    assert fresh.commands == ["import", "load"], "for the next race, while nobody races"
    assert track.resources.turn.acquire(blocking=False)


def test_stop_that_a_side_cannot_hear_is_said_to_have_ended_its_process(track: Track) -> None:
    track.machine.plays |= {"stock": Play(deaf=True, prefill_s=40), "engine": Play(prefill_s=40)}

    def press(race: Race, update: Update) -> None:
        if update["kind"] == "state" and update["state"] == "prefilling":
            race.stop()

    for side, words in (
        ("stock", "; stock generate cannot hear Stop inside its prefill, so its process was ended"),
        ("engine", ""),
    ):
        updates = track.race(side, on_update=press)
        said = [update["detail"] for update in updates if update.get("state") == "stopped"]
        assert said == [f"stopped by the visitor{words}"]


def test_a_closed_tab_ends_deaf_workers_within_two_seconds_and_frees_the_turn(track: Track) -> None:
    track.machine.plays["stock"] = Play(deaf=True, prefill_s=40)
    run = Race(track.settings("stock"), track.resources).run()
    for batch in run:
        if any(update.get("state") == "warming" for update in batch):
            break
    left_ns = track.time.now_ns
    run.close()  # type: ignore[attr-defined]
    assert track.time.now_ns - left_ns < 2e9
    assert track.machine.of("stock")[0].killed
    assert track.resources.turn.acquire(blocking=False)


def test_a_race_waits_for_the_one_before_and_says_so_once(track: Track) -> None:
    assert track.resources.turn.acquire(blocking=False)
    track.time.at(3, track.resources.turn.release)
    updates = track.race()
    assert [update["detail"] for update in updates[:2]] == ["another race is on this machine"] * 2
    assert updates[2]["kind"] == "race"
    assert trace_of(updates)["sides"][1]["state"] == "done"


def test_stopped_before_its_turn_a_race_has_no_result_and_whoever_needs_one_is_told(track: Track) -> None:
    assert track.resources.turn.acquire(blocking=False)
    race = Race(track.settings(), track.resources)
    track.time.at(1, race.stop)
    with pytest.raises(EetError, match="stopped before it had a result"):
        result_of(race.run())
    assert track.machine.children == []


def test_a_race_that_takes_too_long_ends_with_what_there_is(track: Track) -> None:
    track.resources.limits = dataclasses.replace(Limits(), race_seconds=60)
    track.machine.plays |= {"stock": Play(rate=0.3), "engine": Play()}
    begin_ns = track.time.now_ns
    updates = track.race()
    assert 60e9 < track.time.now_ns - begin_ns < 61.2e9
    trace = trace_of(updates)
    assert [side["state"] for side in trace["sides"]] == ["stopped", "stopped"]
    assert 0 < len(trace["sides"][0]["tokens"]["id"]) < 11
    words = "out of time: a race may take 60 seconds (EET_DEMO_MAX_RACE_SECONDS) here"
    assert words in trace["notes"]
    assert [update["detail"] for update in updates if update.get("state") == "stopped"] == [words, words]
    assert track.resources.turn.acquire(blocking=False)


def test_the_time_of_a_race_begins_with_its_turn(track: Track) -> None:
    track.resources.limits = dataclasses.replace(Limits(), race_seconds=60)
    assert track.resources.turn.acquire(blocking=False)
    track.time.at(100, track.resources.turn.release)
    assert [side["state"] for side in trace_of(track.race())["sides"]] == ["done", "done"]


def test_a_model_that_is_not_here_in_time_is_an_error_and_fetched_on(
    track: Track, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetched = threading.Event()
    monkeypatch.setattr(runner, "resolve", lambda *asked: fetched.wait(300))
    track.resources.limits = dataclasses.replace(Limits(), race_seconds=60)
    begin_ns = track.time.now_ns
    with pytest.raises(StoppedError, match=r"not here in time: .* 60 seconds \(EET_DEMO_MAX_RACE_SECONDS\)"):
        result_of(Race(settings_of("gpt2"), track.resources).run())
    fetched.set()
    assert 60e9 < track.time.now_ns - begin_ns < 60.2e9
    assert track.resources.turn.acquire(blocking=False)


def test_a_race_does_not_time_a_side_while_another_one_loads(track: Track) -> None:
    track.machine.plays |= {"stock": Play(), "engine": Play(load_s=20)}
    settings = track.settings()
    preload(settings, track.resources.model(Path(track.model)), track.resources)
    order = states_of(track.race())
    assert order.index((1, "loading")) < order.index((0, "prefilling"))
    assert order.count((1, "loading")) - order[: order.index((0, "prefilling"))].count((1, "loading")) == 0
    assert track.machine.of("engine")[0].commands.count("load") == 1


def test_a_preload_stays_out_of_a_race(track: Track) -> None:
    model = track.resources.model(Path(track.model))
    with track.resources.turn:
        preload(track.settings(), model, track.resources)
    assert track.machine.children == []


def test_side_options_are_as_large_as_the_race(track: Track) -> None:
    settings = track.settings(batch=3, threads=99)
    options = session.side_options("engine", settings, track.resources.model(Path(track.model)), 2)
    assert (options.max_batch, options.max_context, options.threads) == (3, 19, 2)
