"""A worker that hangs, dies or has a fault: how a race goes on, and that its turn and its other side are free again."""

from __future__ import annotations

from typing import Any

import pytest

from eet_demo.errors import KernelFaultError, WorkerError
from eet_demo.race.lane import Lane
from eet_demo.race.race import Race
from eet_demo.race.waiting import SILENT_NS
from tests.fake_workers import Play
from tests.track import Track, Update, phases_of, trace_of


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
