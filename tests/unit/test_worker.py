"""The worker process and its handle: protocol, Stop, death, and that nobody outlives its parent."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from eet_demo.errors import WorkerError
from eet_demo.paths import IMPORT_ROOT
from eet_demo.records import as_json
from eet_demo.worker import child
from eet_demo.worker.handle import WorkerHandle
from eet_demo.worker.pool import start_worker
from tests.real_workers import PATIENCE_S, options, run_command, until, wait_until


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
    monkeypatch.setattr(child, "END_TIMEOUT_S", PATIENCE_S)
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


def test_handle_keeps_the_last_words_of_a_worker_that_exits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(child, "END_TIMEOUT_S", PATIENCE_S)
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
        "from tests.real_workers import options, run_command, until\n"
        "from eet_demo.worker.pool import start_worker\n"
        "handle = start_worker(options('deaf=on,prefill_s=3000'))\n"
        "handle.load(); until(handle, 'loaded'); handle.send(run_command(5)); until(handle, 'started')\n"
        "print(handle.pid, flush=True); time.sleep(3000)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, cwd=IMPORT_ROOT)
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    assert psutil.pid_exists(pid)
    parent.kill()
    parent.wait()
    parent.stdout.close()
    assert wait_until(lambda: not _running(pid)), "the worker outlived its parent"


def _running(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
