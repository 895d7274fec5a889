"""The worker process and its handle: protocol, Stop, death, and that nobody outlives its parent."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from eet_demo.errors import EetError, KernelFaultError, WorkerError
from eet_demo.paths import IMPORT_ROOT
from eet_demo.records import as_json
from eet_demo.sides.scripted import ScriptedSide
from eet_demo.sides.side import SideOptions
from eet_demo.worker.handle import WorkerHandle
from eet_demo.worker.outbox import Outbox
from eet_demo.worker.pool import WorkerPool, same_worker, start_worker
from eet_demo.worker.process import Worker
from tests.fake_clock import FakeTime

PATIENCE_S = 20


def options(scenario: str = "") -> SideOptions:
    name = f"scripted:{scenario}" if scenario else "scripted"
    return SideOptions(name, "", "cpu", "float32", "dense", 1, 2, 64)


def run_command(new_tokens: int, rows: int = 1) -> dict[str, Any]:
    request = {
        "prompt_ids": [[5, 6, 7]] * rows,
        "new_tokens": new_tokens,
        "sampling": {"temperature": 0.0, "top_k": 0, "top_p": 1.0, "seed": 0},
        "stop_token_ids": [],
    }
    return {"cmd": "run", "request": request, "warm_up": False}


def until(handle: WorkerHandle, wanted: str, events: list[dict[str, Any]] | None = None) -> dict[str, Any]:
    """Polls until an event of that kind; every event seen is appended to `events`."""
    deadline_s = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline_s:
        for event in handle.poll():
            if events is not None:
                events.append(event)
            if event["event"] == wanted:
                return event
        time.sleep(0.005)
    pytest.fail(f"no {wanted} within {PATIENCE_S} s: {handle.death()}")


def wait_until(condition: Callable[[], bool], seconds: float = PATIENCE_S) -> bool:
    deadline_s = time.monotonic() + seconds
    while time.monotonic() < deadline_s:
        if condition():
            return True
        time.sleep(0.01)
    return False


@pytest.fixture
def start() -> Iterator[Callable[[str], WorkerHandle]]:
    handles: list[WorkerHandle] = []

    def make(scenario: str) -> WorkerHandle:
        handle = start_worker(options(scenario))
        handles.append(handle)
        handle.load()
        until(handle, "loaded")
        return handle

    yield make
    for handle in handles:
        handle.kill()


def test_worker_sends_every_token_once_with_stamps_in_order(start: Callable[[str], WorkerHandle]) -> None:
    handle = start("rate=2000,prefill_s=0.02,passes=2")
    handle.send(run_command(200, rows=2))
    busy = handle.busy
    events: list[dict[str, Any]] = []
    finished = until(handle, "finished", events)
    assert (busy, handle.busy) == (True, False)
    kinds = [event["event"] for event in events if event["event"] != "memory"]
    assert kinds[0] == "started"
    assert kinds.count("progress") == 2
    batches = [event for event in events if event["event"] == "tokens"]
    ids = [token_id for batch in batches for row, token_id in zip(batch["row"], batch["id"], strict=True) if row == 1]
    assert ids == [5, 6, 7] * 66 + [5, 6]
    times = [time_ns for batch in batches for time_ns in batch["time_ns"]]
    assert times == sorted(times)
    started = next(event for event in events if event["event"] == "started")
    assert started["t0_ns"] == finished["t0_ns"] < times[0]


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


def test_a_fault_in_the_middle_of_a_run_is_heard_from_a_real_worker(start: Callable[[str], WorkerHandle]) -> None:
    handle = start("rate=1,fail_in=memory")
    handle.send(run_command(10_000))
    error = until(handle, "error")
    assert error["type"] == "WorkerError"
    assert not handle.sound


BREAKS_THE_SENDER = """
from eet_demo.sides.scripted import ScriptedSide
from eet_demo.worker.process import main
def load(self):
    self._clock.sleep(0)
    return {"what": "no record, and nothing that JSON knows", "set": {1}}
ScriptedSide.load = load
main()
"""


def test_a_sender_that_fails_ends_its_process_with_its_last_words(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A worker that cannot be heard any more must not be waited for."""
    (tmp_path / "broken.py").write_text(BREAKS_THE_SENDER)
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\nexec {sys.executable} {tmp_path / 'broken.py'}\n")
    python.chmod(0o755)
    monkeypatch.setenv("PYTHONPATH", str(IMPORT_ROOT))
    monkeypatch.setattr(sys, "executable", str(python))
    handle = start_worker(options())
    try:
        handle.load()
        with pytest.raises(WorkerError, match=r"exited with code 1.*not JSON serializable"):
            until(handle, "loaded")
    finally:
        handle.kill()


def test_a_command_that_cannot_be_sent_ends_the_worker_and_says_why(start: Callable[[str], WorkerHandle]) -> None:
    class Full:
        closed = True

        def write(self, text: str) -> None:
            raise OSError(28, "No space left on device")

    handle = start("rate=1")
    handle._child._stdin = Full()  # type: ignore[attr-defined]
    handle.send(run_command(10_000))
    with pytest.raises(WorkerError, match=r"could not be reached \(.*No space left on device\)"):
        until(handle, "finished")


def test_worker_prints_of_libraries_do_not_disturb_the_events(start: Callable[[str], WorkerHandle]) -> None:
    script = (
        "import sys; sys.argv = ['worker']\n"
        "from eet_demo.sides.scripted import ScriptedSide\n"
        "load = ScriptedSide.load\n"
        "def noisy(self):\n"
        "    print('noise on stdout'); import os; os.write(1, b'raw noise\\n')\n"
        "    return load(self)\n"
        "ScriptedSide.load = noisy\n"
        "from eet_demo.worker.process import main; main()\n"
    )
    commands = [{"cmd": "import", "options": as_json(options())}, {"cmd": "load"}, {"cmd": "close"}]
    done = subprocess.run(
        [sys.executable, "-c", script],
        input="".join(json.dumps(command) + "\n" for command in commands),
        capture_output=True,
        text=True,
        cwd=IMPORT_ROOT,
        timeout=PATIENCE_S,
    )
    events = [json.loads(line)["event"] for line in done.stdout.splitlines()]
    assert events == ["imported", "compiled", "loaded", "closed"]
    assert "noise on stdout" in done.stderr
    assert "raw noise" in done.stderr


def test_worker_hears_stop_and_forgets_it_with_the_next_run(start: Callable[[str], WorkerHandle]) -> None:
    handle = start("rate=50")
    handle.send(run_command(10_000))
    until(handle, "tokens")
    handle.send({"cmd": "stop"})
    assert until(handle, "finished")["stopped"] is True
    handle.send(run_command(3))
    assert until(handle, "finished")["stopped"] is False, "an old Stop must not stop the next run"


@pytest.mark.parametrize("place", ["prefill", "decode"])
def test_worker_reports_an_error_and_lives_on(start: Callable[[str], WorkerHandle], place: str) -> None:
    handle = start(f"fail_in={place}")
    handle.send(run_command(8))
    error = until(handle, "error")
    assert f"fails in {place}" in error["message"]
    assert handle.alive
    assert not handle.busy


def test_worker_unknown_option_is_a_request_error() -> None:
    handle = start_worker(options("colour=red"))
    try:
        error = until(handle, "error")
        assert error["type"] == "RequestError"
        assert "colour" in error["message"]
        assert "rate" in error["message"]
    finally:
        handle.kill()


def test_handle_says_how_a_killed_worker_died_and_what_it_wrote(start: Callable[[str], WorkerHandle]) -> None:
    handle = start("rate=50")
    handle.send(run_command(1000))
    until(handle, "tokens")
    os.kill(handle.pid, signal.SIGKILL)
    with pytest.raises(WorkerError, match=r"signal 9 \(SIGKILL\)"):
        until(handle, "finished")
    with pytest.raises(WorkerError):
        handle.poll()
    assert not handle.alive


def test_handle_keeps_the_last_words_of_a_worker_that_exits() -> None:
    handle = start_worker(options())
    try:
        handle.send({"cmd": "load", "options": None})
        until(handle, "loaded")
        handle._child._stdin.write("this is no JSON\n")  # type: ignore[attr-defined]
        handle._child._stdin.flush()  # type: ignore[attr-defined]
        with pytest.raises(WorkerError, match=r"exited with code 1.*JSONDecodeError"):
            until(handle, "finished")
    finally:
        handle.kill()


def test_worker_ends_when_its_parent_dies_even_while_it_is_deaf() -> None:
    script = (
        "import json, sys, time\n"
        "from tests.unit.test_worker import options, run_command, until\n"
        "from eet_demo.worker.pool import start_worker\n"
        "handle = start_worker(options('deaf=on,prefill_s=60'))\n"
        "handle.load(); until(handle, 'loaded'); handle.send(run_command(5)); until(handle, 'started')\n"
        "print(handle.pid, flush=True); time.sleep(60)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, cwd=IMPORT_ROOT)
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    assert psutil.pid_exists(pid)
    parent.kill()
    parent.wait()
    parent.stdout.close()
    assert wait_until(lambda: not _running(pid), 5), "the worker outlived its parent"


def _running(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_pool_uses_a_worker_again_and_ends_what_is_not_wanted() -> None:
    pool = WorkerPool()
    try:
        first = pool.acquire(options("rate=1"))
        twin = pool.acquire(options("rate=1"))
        assert twin is not first, "two equal sides of one race are two workers"
        pool.end(twin)
        first.taken = False
        assert pool.acquire(options("rate=1")) is first
        other = pool.acquire(options("rate=2"))
        assert other is not first
        pool.retain([other.options])
        assert not first.alive
        assert other.alive
        os.kill(other.pid, signal.SIGKILL)
        assert wait_until(lambda: not other.alive)
        assert pool.acquire(other.options) is not other
    finally:
        pool.close()


def test_pool_starts_workers_at_full_priority_from_a_thread_that_is_nice() -> None:
    pool = WorkerPool()
    script = (
        "import os\n"
        "from eet_demo.worker.pool import WorkerPool\n"
        "from tests.unit.test_worker import options\n"
        "pool = WorkerPool(); before = os.getpriority(os.PRIO_PROCESS, 0); os.nice(5)\n"
        "handle = pool.acquire(options()); print(os.getpriority(os.PRIO_PROCESS, handle.pid) - before)\n"
        "pool.close()\n"
    )
    pool.close()
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, cwd=IMPORT_ROOT, timeout=PATIENCE_S
    )
    assert done.stdout.strip() == "0", done.stderr


def test_stock_worker_serves_any_context_and_an_engine_worker_only_its_own() -> None:
    stock = SideOptions("stock", "", "cpu", "float32", "dense", 2, 1, 100)
    larger = dataclasses.replace(stock, max_context=200, max_batch=4)
    assert same_worker(stock, larger)
    assert not same_worker(stock, dataclasses.replace(larger, dtype="bfloat16"))
    for side in ("engine", "stock-static"):
        assert not same_worker(*(dataclasses.replace(each, side=side) for each in (stock, larger))), side
