"""The worker process and its handle: protocol, Stop, death, and that nobody outlives its parent."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import psutil
import pytest

from eet_demo.errors import WorkerError
from eet_demo.paths import IMPORT_ROOT
from eet_demo.records import as_json
from eet_demo.sides.side import SideOptions
from eet_demo.worker.handle import WorkerHandle
from eet_demo.worker.pool import WorkerPool

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
    pytest.fail(f"no {wanted} within {PATIENCE_S} s; stderr: {handle.stderr_tail}")


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
        handle = WorkerHandle(options(scenario))
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
    kinds = [event["event"] for event in events]
    assert kinds[0] == "started"
    assert kinds.count("progress") == 2
    batches = [event for event in events if event["event"] == "tokens"]
    ids = [token_id for batch in batches for row, token_id in zip(batch["row"], batch["id"], strict=True) if row == 1]
    assert ids == [5, 6, 7] * 66 + [5, 6]
    times = [time_ns for batch in batches for time_ns in batch["time_ns"]]
    assert times == sorted(times)
    assert events[0]["t0_ns"] == finished["t0_ns"] < times[0]
    # 0.1 s of decoding at 2,000 steps a second goes out in batches of about 25 ms, not token by token.
    assert len(batches) <= 20


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


def test_worker_stops_within_a_step(start: Callable[[str], WorkerHandle]) -> None:
    handle = start("rate=50")
    handle.send(run_command(1000))
    until(handle, "tokens")
    handle.send({"cmd": "stop"})
    begin_s = time.monotonic()
    assert until(handle, "finished")["stopped"] is True
    assert time.monotonic() - begin_s < 0.5
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
    handle = WorkerHandle(options("colour=red"))
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
    handle = WorkerHandle(options())
    try:
        handle.send({"cmd": "load", "options": None})
        until(handle, "loaded")
        handle._process.stdin.write("this is no JSON\n")  # type: ignore[union-attr]
        handle._process.stdin.flush()  # type: ignore[union-attr]
        with pytest.raises(WorkerError, match=r"exited with code 1.*JSONDecodeError"):
            until(handle, "finished")
    finally:
        handle.kill()


def test_worker_ends_when_its_parent_dies_even_while_it_is_deaf() -> None:
    script = (
        "import json, sys, time\n"
        "from tests.unit.test_worker import options, run_command, until\n"
        "from eet_demo.worker.handle import WorkerHandle\n"
        "handle = WorkerHandle(options('deaf=on,prefill_s=60'))\n"
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
