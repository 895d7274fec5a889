"""A worker as the operating system has it: a process, the pipes to and from it, and how it ended."""

from __future__ import annotations

import contextlib
import json
import queue
import signal
import subprocess
import sys
import threading
from collections import deque
from typing import IO, Protocol

from eet_demo.errors import WorkerError
from eet_demo.machine.gpu import Gpu
from eet_demo.paths import IMPORT_ROOT
from eet_demo.worker.memory import ProcessMemory
from eet_demo.worker.outbox import Message

END_TIMEOUT_S = 0.5


class Child(Protocol):
    """What a handle needs of the process that it speaks to."""

    @property
    def pid(self) -> int: ...

    @property
    def alive(self) -> bool:
        """False once it has ended, whoever ended it."""

    def write(self, command: Message) -> None:
        """Sends one command; never raises: a process that cannot be reached is ended, and `read` says so."""

    def read(self) -> list[Message]:
        """What it has sent since, possibly nothing.

        Raises:
            WorkerError: it has ended although nobody ended it; everything it sent was handed out before.
        """

    def sample(self, unique: bool = False) -> dict[str, int]:
        """Its memory by kind, as `ProcessMemory` has it."""

    def end(self) -> None:
        """Ends it: asked first, killed after END_TIMEOUT_S. Safe to call twice, and on a dead one."""

    def kill(self) -> None:
        """Ends it now: for one that is deaf inside a long call."""

    def death(self) -> str:
        """How it ended, in words; ends it if it has not."""


class ChildProcess:
    """`python -m eet_demo.worker`; a thread collects its events. Only `end` and `death` wait, for a bounded time."""

    def __init__(self, name: str, gpu: Gpu | None = None) -> None:
        """`name`: of the side, for the words. `gpu`: where its memory is sampled too."""
        self._name = name
        self._events: queue.SimpleQueue[Message | None] = queue.SimpleQueue()
        self._stderr: deque[str] = deque(maxlen=100)
        self._ended_on_purpose = False
        self._unreachable: str | None = None
        # A session of its own: Ctrl-C in the terminal goes to the parent alone, which closes its workers.
        self._process = subprocess.Popen(
            [sys.executable, "-m", "eet_demo.worker"],
            cwd=IMPORT_ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            errors="replace",
            start_new_session=True,
        )
        assert self._process.stdin is not None
        self._stdin: IO[str] = self._process.stdin
        self._memory = ProcessMemory(self._process.pid, gpu)
        self._readers = [
            threading.Thread(target=self._read_events, args=(self._process.stdout,), daemon=True),
            threading.Thread(target=self._read_stderr, args=(self._process.stderr,), daemon=True),
        ]
        for reader in self._readers:
            reader.start()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def alive(self) -> bool:
        return self._process.poll() is None and not self._ended_on_purpose

    def write(self, command: Message) -> None:
        try:
            self._stdin.write(json.dumps(command) + "\n")
            self._stdin.flush()
        except ValueError:
            return  # closed by `end`
        except OSError as error:
            # A broken pipe is a process that is gone; whatever else it is, nobody would answer a command that is lost.
            self._unreachable = None if isinstance(error, BrokenPipeError) else str(error)
            self._process.kill()

    def read(self) -> list[Message]:
        events: list[Message] = []
        while True:
            try:
                event = self._events.get_nowait()
            except queue.Empty:
                return events
            if event is None:
                self._events.put(None)
                if events:
                    return events
                raise WorkerError(self.death())
            events.append(event)

    def sample(self, unique: bool = False) -> dict[str, int]:
        return self._memory.sample(unique)

    def end(self) -> None:
        self._ended_on_purpose = True
        if not self._stdin.closed:
            self.write({"cmd": "close"})
            with contextlib.suppress(OSError):
                self._stdin.close()
        self._wait()
        for reader in self._readers:
            reader.join(timeout=END_TIMEOUT_S)

    def kill(self) -> None:
        self._process.kill()
        self.end()

    def death(self) -> str:
        code = self._wait()
        self._readers[1].join(timeout=END_TIMEOUT_S)
        how = f"exited with code {code}"
        if self._unreachable is not None:
            how = f"could not be reached ({self._unreachable}) and was ended"
        elif code < 0:
            how = f"was ended by signal {-code} ({signal.Signals(-code).name})"
            if -code == signal.SIGKILL:
                how += ", as the system does when memory runs out"
        last = next((line for line in reversed(self._stderr) if line.strip()), "")
        wrote = f"; it wrote: {last}" if last else ""
        return f"the worker of {self._name} {how} before it had finished{wrote}"

    def _wait(self) -> int:
        """The exit code, of a process that is killed if it has not ended within END_TIMEOUT_S."""
        try:
            return self._process.wait(timeout=END_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return self._process.wait()

    def _read_events(self, stream: IO[str]) -> None:
        for line in stream:
            try:
                self._events.put(json.loads(line))
            except json.JSONDecodeError:
                break  # the half line of a process killed while it wrote
        self._events.put(None)

    def _read_stderr(self, stream: IO[str]) -> None:
        for line in stream:
            self._stderr.append(line.rstrip())
