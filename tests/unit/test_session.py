"""Races and benchmarks in no time: order, pace, Stop, faults and memory, against workers that obey a fake clock."""

from __future__ import annotations

import dataclasses
import itertools
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from eet_demo.declared import Limits
from eet_demo.errors import EetError, KernelFaultError, MemoryPlanError, StoppedError, WorkerError
from eet_demo.machine.cpu_use import CpuTimes
from eet_demo.race import race as runner
from eet_demo.race import session
from eet_demo.race.bench import Bench
from eet_demo.race.lane import Lane
from eet_demo.race.race import Race, result_of
from eet_demo.race.resources import RaceResources
from eet_demo.race.session import preload
from eet_demo.race.waiting import SILENT_NS
from eet_demo.records import RaceSettings
from eet_demo.results.trace import Trace, validate_trace
from eet_demo.sides import build
from tests.fake_clock import FakeTime
from tests.fake_workers import FakeMachine, Play, resources_of, settings_of, write_model

Update = dict[str, Any]


class Track:
    """A machine and the races on it."""

    def __init__(self, folder: Path, total_bytes: int = 10**9) -> None:
        self.time = FakeTime()
        self.machine = FakeMachine(self.time, total_bytes)
        self.resources: RaceResources = resources_of(self.machine, folder)
        self.model = write_model(folder)

    def settings(self, *sides: str, **changed: Any) -> RaceSettings:
        return settings_of(self.model, *sides, **changed)

    def race(
        self, *sides: str, on_update: Callable[[Race, Update], None] = lambda race, update: None, **changed: Any
    ) -> list[Update]:
        """Every update of a whole race."""
        race = Race(self.settings(*sides, **changed), self.resources)
        updates: list[Update] = []
        for batch in race.run():
            for update in batch:
                updates.append(update)
                on_update(race, update)
        return updates

    def bench(self, *sides: str, repeats: int = 1, **changed: Any) -> dict[str, Any]:
        settings = self.settings(*sides, **changed)
        return Bench(settings, repeats, Path(self.model), self.resources).run(lambda line: None)


@pytest.fixture
def track(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Track]:
    made = Track(tmp_path)
    monkeypatch.setattr(build, "side_bytes", lambda options: made.machine.plays[options.side].needs)
    yield made
    made.resources.close()


def trace_of(updates: list[Update]) -> Trace:
    assert updates[-1]["kind"] == "result"
    return validate_trace(updates[-1]["trace"])


def states_of(updates: list[Update]) -> list[tuple[int, str]]:
    return [(update["side"], update["state"]) for update in updates if update["kind"] == "state"]


def phases_of(trace: Trace, side: int) -> dict[str, float]:
    """Seconds of every phase."""
    return {phase["name"]: (phase["end_ns"] - phase["start_ns"]) / 1e9 for phase in trace["sides"][side]["phases"]}


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


def busy(track: Track, cores: float) -> list[set[int]]:
    """Others keep so many of the machine's two cores busy; returns the processes that were called the race's own."""
    asked: list[set[int]] = []

    def read(pids: Iterable[int]) -> CpuTimes:
        asked.append(set(pids))
        now_s = track.time.now_ns / 1e9
        return CpuTimes(now_s, 2, all_s=(cores + 0.9) * now_s, own_s=0.9 * now_s)

    track.resources.read_cpu = read
    return asked


@pytest.mark.parametrize("schedule", ["in_turn", "together"])
def test_what_others_take_while_a_side_is_timed_is_kept_and_said(track: Track, schedule: str) -> None:
    asked = busy(track, cores=0.5)
    trace = trace_of(track.race(schedule=schedule))
    for side in trace["sides"]:
        assert side["others"]["cpu_s"] == pytest.approx(0.5 * side["others"]["wall_s"])
        assert side["others"]["wall_s"] == pytest.approx(0.6, abs=0.11), "the timed run alone: no load, no warm-up"
    told = [note for note in trace["notes"] if "other programs" in note]
    rest = ": on an idle machine it may be faster"
    runs = ["stock", "engine"] if schedule == "in_turn" else ["stock and engine"]
    assert told == [f"other programs took 0.50 of 2 cores while {sides} ran{rest}" for sides in runs]
    assert all(pids == {child.pid for child in track.machine.children} for pids in asked)


def test_an_idle_machine_is_not_spoken_of(track: Track) -> None:
    busy(track, cores=0.05)
    trace = trace_of(track.race())
    assert trace["notes"] == trace_of(Track.race(track))["notes"]
    assert not any("other programs" in note for note in trace["notes"])


def test_what_others_take_is_unknown_where_it_is_not_read(track: Track) -> None:
    assert [side["others"] for side in trace_of(track.race())["sides"]] == [None, None]


def test_a_benchmark_says_once_a_side_what_others_took_in_all_its_runs(track: Track) -> None:
    busy(track, cores=0.5)
    result = track.bench(repeats=3)
    told = [note for note in result["notes"] if "other programs" in note]
    assert [note.split(" while ")[1].split(" ran")[0] for note in told] == ["stock", "engine"]
    assert all(sample["others"]["cpu_s"] > 0 for run in result["runs"] for sample in run["samples"])


def test_what_stop_ended_is_not_loaded_anew_where_there_is_no_room(track: Track) -> None:
    track.machine.total_bytes = 100
    track.machine.plays |= {"engine": Play(needs=70, loaded=70), "stock": Play(needs=60, deaf=True, load_s=40)}

    def press(race: Race, update: Update) -> None:
        if update["kind"] == "state" and (update["side"], update["state"]) == (1, "loading"):
            track.machine.total_bytes = 50  # somebody else takes memory meanwhile
            race.stop()

    track.race("engine", "stock", on_update=press)
    assert len(track.machine.of("stock")) == 1


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
    monkeypatch.setattr(runner, "resolve", lambda *asked: fetched.wait(20))
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


# Faults


@pytest.mark.parametrize("command", ["import", "load", "run"])
def test_a_worker_without_a_sign_of_life_is_ended_and_the_other_side_runs(track: Track, command: str) -> None:
    track.machine.plays |= {"stock": Play(hangs_in=command), "engine": Play()}
    begin_ns = track.time.now_ns
    trace = trace_of(track.race())
    assert [side["state"] for side in trace["sides"]] == ["failed", "done"]
    assert "no sign of life for 60 s" in trace["sides"][0]["error"]["message"]
    assert SILENT_NS < track.time.now_ns - begin_ns < SILENT_NS + 10e9
    assert track.machine.of("stock")[0].killed
    assert track.machine.resident() == []


def test_a_long_silent_prefill_is_left_alone(track: Track) -> None:
    track.machine.plays["stock"] = Play(prefill_s=400)
    trace = trace_of(track.race("stock"))
    assert trace["sides"][0]["state"] == "done"
    assert phases_of(trace, 0)["prefill"] == 400


def test_a_dead_worker_whose_pipe_stays_open_is_noticed(track: Track, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process forked from it may hold the pipe: its end is never read."""
    track.machine.plays["stock"] = Play(dies_in="run")
    monkeypatch.setattr("tests.fake_workers.FakeChild.read", lambda child: _silently(child))
    begin_ns = track.time.now_ns
    error = trace_of(track.race("stock"))["sides"][0]["error"]
    assert "SIGKILL" in error["message"]
    assert track.time.now_ns - begin_ns < 10e9


def _silently(child: Any) -> list[Update]:
    now_ns = child._machine.time.now_ns
    due = [event for due_ns, event in child._events if due_ns <= now_ns]
    child._events = [(due_ns, event) for due_ns, event in child._events if due_ns > now_ns]
    return due


@pytest.mark.parametrize("error", ["KernelFaultError", "WorkerError"])
@pytest.mark.parametrize("command", ["load", "run", "logits"])
def test_a_worker_that_had_a_fault_never_races_again(track: Track, command: str, error: str) -> None:
    track.machine.plays |= {"stock": Play(fails_in=(command, error, "planted")), "engine": Play(differ_at=3)}
    ended_by_the_others_turn: list[bool] = []

    def look(race: Race, update: Update) -> None:
        if update["kind"] == "state" and (update["side"], update["state"]) == (1, "warming"):
            ended_by_the_others_turn.append(track.machine.of("stock")[0].ended)

    trace = trace_of(track.race(on_update=look))
    assert ended_by_the_others_turn == [command != "logits"]
    if command == "logits":
        assert "planted" in trace["notes"][-1]
    else:
        assert trace["sides"][0]["error"]["message"] == "planted"
    assert track.machine.of("stock")[0].ended
    track.machine.plays["stock"].fails_in = ("", "", "")
    assert trace_of(track.race())["sides"][0]["state"] == "done"
    assert len(track.machine.of("stock")) == 2


def test_a_fault_that_is_heard_while_a_race_is_left_never_races_again(track: Track) -> None:
    track.machine.plays["stock"] = Play(rate=1)
    run = Race(track.settings("stock"), track.resources).run()
    for batch in run:
        if any(update.get("state") == "decoding" for update in batch):
            break
    child = track.machine.of("stock")[0]
    child._stop = lambda: child._say(0, event="error", type="KernelFaultError", message="planted")  # type: ignore[method-assign]
    child._events, child._free_ns = [], track.time.now_ns
    run.close()  # type: ignore[attr-defined]
    assert child.ended


def test_an_error_that_leaves_the_worker_sound_keeps_it(track: Track) -> None:
    track.machine.plays["stock"] = Play(fails_in=("run", "NumericsError", "planted"), loaded=5)
    assert trace_of(track.race("stock"))["sides"][0]["error"]["message"] == "planted"
    assert not track.machine.of("stock")[0].ended


@pytest.mark.parametrize("broken", [0, 1])
def test_the_turn_is_released_whatever_goes_wrong_at_the_end(
    track: Track, monkeypatch: pytest.MonkeyPatch, broken: int
) -> None:
    real = Lane.abandon

    def abandon(lane: Lane, deadline_ns: int, keep: bool = True) -> None:
        real(lane, deadline_ns, keep)
        if lane.index == broken:
            raise OSError("planted")

    monkeypatch.setattr(Lane, "abandon", abandon)
    with pytest.raises(OSError, match="planted"):
        track.race()
    assert track.resources.turn.acquire(blocking=False)
    track.resources.turn.release()
    with pytest.raises(OSError, match="planted"):
        track.bench()
    assert track.resources.turn.acquire(blocking=False)
    assert [handle.taken for handle in track.resources.pool.handles] == [False, False], "the other lane let go, too"


@pytest.mark.parametrize("command", ["load", "run"])
def test_a_benchmark_with_a_side_that_fails_is_an_error(track: Track, command: str) -> None:
    track.machine.plays["engine"] = Play(fails_in=(command, "KernelFaultError", "planted"))
    with pytest.raises(KernelFaultError, match="planted"):
        track.bench()
    track.machine.plays["engine"] = Play(dies_in=command)
    with pytest.raises(WorkerError, match="SIGKILL"):
        track.bench()
    assert track.resources.turn.acquire(blocking=False)


def test_a_benchmark_stopped_before_its_turn_starts_nothing(track: Track) -> None:
    bench = Bench(track.settings(), 1, Path(track.model), track.resources)
    track.time.at(1, bench.stop)
    with track.resources.turn, pytest.raises(EetError, match="stopped"):
        bench.run(lambda line: None)
    assert track.machine.children == []


# Figures of a benchmark


def test_a_benchmark_alternates_the_order_and_takes_medians(track: Track) -> None:
    track.machine.plays |= {"stock": Play(rate=20), "engine": Play(rate=50)}
    settings = track.settings()
    lines: list[str] = []
    result = Bench(settings, 3, Path(track.model), track.resources).run(lines.append)
    assert [line.split(": ")[0] for line in lines] == [
        *("1/3 stock", "1/3 engine"),
        *("2/3 engine", "2/3 stock"),
        *("3/3 stock", "3/3 engine"),
    ]
    assert [run["side"] for run in result["runs"]] == ["stock", "engine"]
    assert [run["decode_tok_s"] for run in result["runs"]] == [pytest.approx(20), pytest.approx(50)]
    assert result["speedup"]["decode"] == pytest.approx(2.5)
    phases = [phase["name"] for sample in result["runs"][0]["samples"] for phase in sample["phases"]]
    assert phases.count("loading") == 1, "a worker stays between repeats"


def test_a_benchmark_says_how_far_its_runs_lie_apart(track: Track) -> None:
    stock, rates = Play(rate=20), iter([50, 30, 30])
    track.machine.plays["stock"] = stock
    bench = Bench(track.settings("stock"), 3, Path(track.model), track.resources)
    (run,) = bench.run(lambda line: setattr(stock, "rate", next(rates)))["runs"]
    assert run["decode_tok_s"] == pytest.approx(30)
    assert run["iqr"]["decode_tok_s"] == pytest.approx(40 - 25)
    assert run["iqr"]["ttft_ms"] == pytest.approx(0)
    (once,) = track.bench("stock")["runs"]
    assert set(once["iqr"].values()) == {None}


def test_utilisation_is_bytes_over_time_over_the_bandwidth_of_the_compared_engine(track: Track) -> None:
    track.machine.plays |= {
        "stock": Play(rate=20, bytes_per_step=600),
        "engine": Play(rate=50, bytes_per_step=400, gb_s=100e-6),
        "engine:prefill_chunk=4": Play(rate=10, bytes_per_step=400, gb_s=20e-6),
    }
    roofline = track.bench("stock", "engine", "engine:prefill_chunk=4", batch=2)["roofline"]
    assert roofline["bandwidth_gb_s"] == 100e-6
    assert roofline["bytes_per_token"] == 200
    assert roofline["context"] == 8 + 11 // 2
    assert roofline["mbu"] == {
        "stock": pytest.approx(600 * 20 / 100e3),
        "engine": pytest.approx(400 * 50 / 100e3),
        "engine:prefill_chunk=4": pytest.approx(400 * 10 / 100e3),
    }


def test_a_benchmark_without_an_engine_has_no_roofline(track: Track) -> None:
    assert track.bench("stock", "stock-eager")["roofline"] is None


def test_a_side_that_moves_no_bytes_has_no_utilisation(track: Track) -> None:
    track.machine.plays |= {
        "scripted": Play(fails_in=("roofline", "UnsupportedError", "no bytes")),
        "engine": Play(bytes_per_step=400, gb_s=1.0),
    }
    assert track.bench("scripted", "engine")["roofline"]["mbu"]["scripted"] is None


# Memory


def test_where_both_fit_both_stay(track: Track) -> None:
    track.machine.total_bytes = 100
    track.machine.plays |= {"stock": Play(needs=60, loaded=50, run=60), "engine": Play(needs=40, loaded=40)}
    trace = trace_of(track.race())
    assert not any("each is loaded" in note for note in trace["notes"])
    assert track.machine.resident() == ["stock", "engine"]


def test_where_one_fits_each_is_loaded_for_its_turn_and_never_beside_the_other(track: Track) -> None:
    """`FakeMachine.check` fails as soon as both are in memory; parity asks stock, which is gone by then."""
    track.machine.total_bytes = 100
    track.machine.plays |= {"stock": Play(needs=60, loaded=60), "engine": Play(needs=50, loaded=50, differ_at=4)}
    for _ in range(2):  # the second race finds one of them loaded
        trace = trace_of(track.race())
        assert [side["state"] for side in trace["sides"]] == ["done", "done"]
        assert "each is loaded for its turn" in trace["notes"][-1]
        assert trace["parity"] == [{"equal_tokens": 4, "first_divergence": 4, "margin_at_divergence": 0.25}]
    assert track.machine.resident() == ["stock"], "parity asked it last"


def test_a_benchmark_where_one_fits_asks_the_roofline_one_at_a_time(track: Track) -> None:
    track.machine.total_bytes = 100
    track.machine.plays |= {
        "stock": Play(needs=60, loaded=60, bytes_per_step=600),
        "engine": Play(needs=50, loaded=50, differ_at=4, bytes_per_step=400, gb_s=1.0),
    }
    result = track.bench(repeats=2)
    assert result["parity"][0]["margin_at_divergence"] == 0.25
    assert None not in result["roofline"]["mbu"].values()
    phases = [phase["name"] for sample in result["runs"][0]["samples"] for phase in sample["phases"]]
    assert phases.count("loading") == 2
    assert all(run["memory"]["process_base_bytes"] == 1000 for run in result["runs"]), "of workers that are gone, too"


def test_together_is_refused_with_the_figures_where_both_do_not_fit(track: Track) -> None:
    track.machine.total_bytes = 100
    track.machine.plays |= {"stock": Play(needs=60, loaded=60), "engine": Play(needs=50, loaded=50)}
    with pytest.raises(MemoryPlanError, match=r"need 110 bytes .* and 100 bytes .* available.*in_turn"):
        track.race(schedule="together")
    assert track.machine.resident() == []
    assert track.resources.turn.acquire(blocking=False)
    track.resources.turn.release()
    track.machine.total_bytes = 110
    assert trace_of(track.race(schedule="together"))["sides"][1]["state"] == "done"


def test_together_one_side_that_no_longer_fits_fails_and_never_ends_the_other(track: Track) -> None:
    track.machine.total_bytes = 110
    track.machine.plays |= {"stock": Play(needs=60, loaded=60), "engine": Play(needs=50, loaded=50)}

    def take_memory(race: Race, update: Update) -> None:
        if update["kind"] == "state" and (update["side"], update["state"]) == (0, "warming"):
            track.machine.total_bytes = 100

    trace = trace_of(track.race(schedule="together", on_update=take_memory))
    assert [side["state"] for side in trace["sides"]] == ["done", "failed"]
    assert "engine needs 50 bytes" in trace["sides"][1]["error"]["message"]


def test_memory_that_shrinks_during_a_race_is_noticed_before_the_next_load(track: Track) -> None:
    track.machine.total_bytes = 110
    track.machine.plays |= {"stock": Play(needs=60, loaded=60), "engine": Play(needs=50, loaded=50)}

    def take_memory(race: Race, update: Update) -> None:
        if update["kind"] == "state" and (update["side"], update["state"]) == (0, "decoding"):
            track.machine.total_bytes = 100

    trace = trace_of(track.race(on_update=take_memory))
    assert [side["state"] for side in trace["sides"]] == ["done", "done"]
    assert track.machine.resident() == ["engine"]


def test_a_side_too_large_is_refused_with_the_figures_and_the_other_runs(track: Track) -> None:
    track.machine.total_bytes = 50
    track.machine.plays |= {"stock": Play(needs=60), "engine": Play(needs=40, loaded=40)}
    trace = trace_of(track.race())
    assert [side["state"] for side in trace["sides"]] == ["failed", "done"]
    assert "stock needs 60 bytes" in trace["sides"][0]["error"]["message"]
    assert "50 bytes" in trace["sides"][0]["error"]["message"]
    with pytest.raises(MemoryPlanError, match=r"stock needs 60 bytes .* 50 bytes .* available"):
        track.bench()


def test_a_card_whose_driver_does_not_count_a_process_takes_the_sides_own_word(track: Track) -> None:
    """The second race on a full card finds what the first one holds: it is not refused."""
    track.machine.total_bytes = 100
    track.machine.plays |= {"stock": Play(unseen=True), "engine": Play(needs=80, loaded=80, unseen=True)}
    for _ in range(2):
        trace = trace_of(track.race("engine", device="cuda", dtype="float16"))
        assert trace["sides"][0]["state"] == "done"
    assert len(track.machine.of("engine")) == 1


def test_preloading_asks_for_all_sides_at_once(track: Track) -> None:
    track.machine.total_bytes = 100
    track.machine.plays |= {"stock": Play(needs=60, loaded=60), "engine": Play(needs=50, loaded=50)}
    model = track.resources.model(Path(track.model))
    preload(track.settings(), model, track.resources)
    assert track.machine.children == []
    track.machine.total_bytes = 110
    preload(track.settings(), model, track.resources)
    assert [child.commands for child in track.machine.children] == [["import", "load"]] * 2
    preload(track.settings(), model, track.resources)
    assert len(track.machine.children) == 2, "they are on their way"


def test_side_options_are_as_large_as_the_race(track: Track) -> None:
    settings = track.settings(batch=3, threads=99)
    options = session.side_options("engine", settings, track.resources.model(Path(track.model)), 2)
    assert (options.max_batch, options.max_context, options.threads) == (3, 19, 2)
