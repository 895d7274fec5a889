"""What a worker says and when: tokens in batches, memory, signs of life, on a clock of the test's."""

from __future__ import annotations

import io
import json
import threading
from typing import Any

import pytest

from eet_demo.errors import EetError, KernelFaultError
from eet_demo.sides.scripted import ScriptedSide
from eet_demo.worker.outbox import Outbox
from eet_demo.worker.process import Worker
from tests.fake_clock import FakeTime
from tests.real_workers import options, run_command


class InProcess:
    """A worker in this process, on a clock of its own; its sender's rounds are the test's."""

    def __init__(self, scenario: str = "") -> None:
        self.time, self.stop, self.stream = FakeTime(), threading.Event(), io.StringIO()
        self.outbox = Outbox(self.stream, self.time.clock)
        self.worker = Worker(self.outbox, self.stop, self.time.clock)
        self.worker._side = self.side = ScriptedSide(options(scenario), self.time.clock)

    def pump_every(self, seconds: float, times: int) -> None:
        for count in range(1, times + 1):
            self.time.at(count * seconds, self.outbox.pump)

    def events(self) -> list[dict[str, Any]]:
        """Everything sent since the last call."""
        self.outbox.pump()
        lines = self.stream.getvalue().splitlines()
        self.stream.seek(0)
        self.stream.truncate()
        return [json.loads(line) for line in lines]


def of_kind(events: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    return [event for event in events if event["event"] == kind]


def test_steps_go_out_in_batches_by_time_and_not_token_by_token() -> None:
    worker = InProcess("rate=2000,prefill_s=0.1")
    worker.pump_every(0.025, 8)
    worker.worker.execute(run_command(200))
    batches = of_kind(worker.events(), "tokens")
    assert [len(batch["id"]) for batch in batches] == [50, 50, 50, 50]
    stamps = [time_ns for batch in batches for time_ns in batch["time_ns"]]
    assert stamps == [1_100_000_000 + step * 500_000 for step in range(200)], "the script's, to the nanosecond"


def test_a_decode_step_never_wakes_the_sender() -> None:
    worker = InProcess()
    worker.outbox.step(1, [5])
    assert not worker.outbox._wake.is_set()
    worker.outbox.put({"event": "started"})
    assert worker.outbox._wake.is_set()


def test_memory_is_told_ten_times_a_second_while_a_run_goes_on() -> None:
    worker = InProcess("rate=10,prefill_s=1")
    worker.pump_every(0.025, 80)
    worker.worker.execute(run_command(11))
    told = of_kind(worker.events(), "memory")
    assert [event["time_ns"] for event in told[:-1]] == [1_025_000_000 + at * 100_000_000 for at in range(20)]
    assert told[-1]["time_ns"] == 3_000_000_000, "and what the run ended with"


def test_a_sign_of_life_goes_out_every_second_of_work_and_none_without_work() -> None:
    worker = InProcess("compile_s=4.5,load_s=3")
    worker.pump_every(1, 7)
    worker.worker.execute({"cmd": "load"})
    kinds = [event["event"] for event in worker.events()]
    assert kinds == ["alive"] * 4 + ["compiled"] + ["alive"] * 2 + ["loaded"]
    worker.pump_every(1, 10)
    worker.time.sleep(10)
    assert worker.events() == []


def test_stop_acts_before_the_next_step() -> None:
    worker = InProcess("rate=10,prefill_s=1")
    worker.time.at(1.45, worker.stop.set)
    worker.worker.execute(run_command(1000))
    events = worker.events()
    assert of_kind(events, "finished")[0]["stopped"] is True
    assert len(of_kind(events, "tokens")[0]["id"]) == 5, "at 1.0, 1.1, ... 1.4 s"


@pytest.mark.parametrize(
    ("error", "kind", "words"),
    [
        (KernelFaultError("illegal address"), "KernelFaultError", "illegal address"),
        (EetError("planted"), "WorkerError", "EetError in memory: planted"),
        (RuntimeError("planted"), "WorkerError", "RuntimeError in memory: planted"),
    ],
)
def test_a_side_that_cannot_say_what_it_holds_is_an_error_and_the_sender_lives_on(
    monkeypatch: pytest.MonkeyPatch, error: Exception, kind: str, words: str
) -> None:
    worker = InProcess("rate=10,prefill_s=1")

    def fail() -> dict[str, int]:
        raise error

    worker.pump_every(0.025, 80)
    monkeypatch.setattr(worker.side, "memory_bytes", fail)
    worker.time.at(1.5, monkeypatch.undo)
    worker.worker.execute(run_command(11))
    events = worker.events()
    assert [(event["type"], event["message"]) for event in of_kind(events, "error")] == [(kind, words)], "said once"
    assert sum(len(batch["id"]) for batch in of_kind(events, "tokens")) == 11
    assert events[-1]["event"] == "finished"
