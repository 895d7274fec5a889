"""The parent's end of a worker process: spawn, send, poll, end. Nothing here blocks but `end`, for a bounded time."""

from __future__ import annotations

import contextlib
import json
import queue
import signal
import subprocess
import sys
import threading
from collections import deque
from typing import IO, Any

from eet_demo.errors import WorkerError
from eet_demo.paths import IMPORT_ROOT
from eet_demo.records import as_json
from eet_demo.sides.side import SideOptions
from eet_demo.worker.process import Message

END_TIMEOUT_S = 0.5

_ANSWERED = ("run", "logits", "roofline")
_ANSWERS = ("finished", "logits", "roofline", "error")


class WorkerHandle:
    """One worker process for one side. Events are collected by a thread and handed out by `poll`."""

    def __init__(self, options: SideOptions) -> None:
        self.options = options
        self.config: dict[str, Any] | None = None
        self.base_bytes: int | None = None
        self.compiled_s: float | None = None
        self.kinds: dict[str, int] = {}
        self.busy = False
        self.taken = False  # by a lane: two equal sides are two workers
        self.warmed: set[tuple[int, ...]] = set()
        self._load_sent = False
        self._events: queue.SimpleQueue[Message | None] = queue.SimpleQueue()
        self._stderr: deque[str] = deque(maxlen=100)
        self._ended_on_purpose = False
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
        self._readers = [
            threading.Thread(target=self._read_events, args=(self._process.stdout,), daemon=True),
            threading.Thread(target=self._read_stderr, args=(self._process.stderr,), daemon=True),
        ]
        for reader in self._readers:
            reader.start()
        self.send({"cmd": "import", "options": as_json(options)})

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def alive(self) -> bool:
        return self._process.poll() is None and not self._ended_on_purpose

    @property
    def loaded(self) -> bool:
        return self.config is not None

    @property
    def loading(self) -> bool:
        """Asked for its weights and not there yet."""
        return self._load_sent and not self.loaded

    def load(self) -> None:
        """Asks for the weights; a second call does nothing. `loaded` turns true when a poll has seen the answer."""
        if not self._load_sent:
            self._load_sent = True
            self.send({"cmd": "load"})

    def send(self, command: Message) -> None:
        """Sends one command. A worker that is gone is reported by the next `poll`, with its reason."""
        assert self._process.stdin is not None
        self.busy = self.busy or command["cmd"] in _ANSWERED
        try:
            self._process.stdin.write(json.dumps(command) + "\n")
            self._process.stdin.flush()
        except (BrokenPipeError, ValueError):
            return

    def poll(self) -> list[Message]:
        """Events since the last poll, possibly none.

        Raises:
            WorkerError: the process has ended although nobody ended it; every event it sent was handed out before.
        """
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
            self._note(event)
            events.append(event)

    def end(self) -> None:
        """Ends the process: asked first, killed after END_TIMEOUT_S. Safe to call twice, and on a dead one."""
        self._ended_on_purpose = True
        if self._process.stdin is not None and not self._process.stdin.closed:
            self.send({"cmd": "close"})
            with contextlib.suppress(BrokenPipeError):
                self._process.stdin.close()
        try:
            self._process.wait(timeout=END_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        for reader in self._readers:
            reader.join(timeout=END_TIMEOUT_S)

    def kill(self) -> None:
        """Ends the process now: for one that is deaf inside a long call."""
        self._process.kill()
        self.end()

    def death(self) -> str:
        """How the process ended, in words, with the last line it wrote to stderr."""
        try:
            code = self._process.wait(timeout=END_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            code = self._process.wait()
        self._readers[1].join(timeout=END_TIMEOUT_S)
        how = f"exited with code {code}"
        if code < 0:
            how = f"was ended by signal {-code} ({signal.Signals(-code).name})"
            if -code == signal.SIGKILL:
                how += ", as the system does when memory runs out"
        last = next((line for line in reversed(self._stderr) if line.strip()), "")
        wrote = f"; it wrote: {last}" if last else ""
        return f"the worker of {self.options.side} {how} before it had finished{wrote}"

    @property
    def stderr_tail(self) -> str:
        """The last lines the worker wrote to stderr."""
        return "\n".join(self._stderr)

    def _note(self, event: Message) -> None:
        if event["event"] in _ANSWERS:
            self.busy = False
        if event["event"] in ("loaded", "memory"):
            self.kinds = event["kinds"]
        if event["event"] == "imported":
            self.base_bytes = event["process_bytes"]
        if event["event"] == "compiled":
            self.compiled_s = event["seconds"]
        if event["event"] == "loaded":
            self.config = event["config"]

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
