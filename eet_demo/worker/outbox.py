"""What a worker process says: one sender thread writes it, batched by time, so that the timed thread never writes."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import threading
import traceback
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TextIO

from eet_demo.clock import Clock
from eet_demo.errors import EetError, KernelFaultError, WorkerError
from eet_demo.sides.side import Side

SEND_EVERY_S = 0.025
MEMORY_EVERY_NS = 100_000_000
ALIVE_EVERY_S = 1.0
"""While a command is executed the sender is never silent for longer: silence means that the process hangs."""

Message = dict[str, Any]


class Outbox:
    """What waits to be sent: `put` and `step` from any thread, written by one sender thread once `start` was called."""

    def __init__(self, stream: TextIO, clock: Clock | None = None) -> None:
        self._stream = stream
        self._clock = clock or Clock()
        self._waiting: deque[Message | tuple[int, Sequence[int | None]]] = deque()
        self._wake = threading.Event()
        self._side: Side | None = None
        self._at_work = False
        self._memory_due_ns = 0
        self._sent_ns = self._clock.now_ns()
        self._sender = threading.Thread(target=self._send_forever, name="sender", daemon=True)

    def start(self) -> None:
        self._sender.start()

    def put(self, message: Message) -> None:
        """Sends `message` soon: the sender wakes for it."""
        self._waiting.append(message)
        self._wake.set()

    def step(self, time_ns: int, token_ids: Sequence[int | None]) -> None:
        """Sends one decode step with the next batch; never wakes the sender (a deque's append is atomic)."""
        self._waiting.append((time_ns, token_ids))

    @contextlib.contextmanager
    def at_work(self) -> Iterator[None]:
        """While open, a sign of life goes out whenever nothing else does for ALIVE_EVERY_S."""
        self._at_work = True
        self._wake.set()
        try:
            yield
        finally:
            self._at_work = False

    @contextlib.contextmanager
    def running(self, side: Side) -> Iterator[None]:
        """While open, the sender wakes every SEND_EVERY_S and reports `side`'s memory by kind."""
        self._side = side
        self._wake.set()
        try:
            yield
        finally:
            self._side = None

    def close(self) -> None:
        """Returns when everything put so far is written."""
        self.put({"event": "closed"})
        self._sender.join(timeout=5)

    def pump(self) -> bool:
        """One round of the sender: what is due is added, and all that waits is written. True after `closed`."""
        now_ns, side = self._clock.now_ns(), self._side
        if side is not None and now_ns >= self._memory_due_ns:
            self._memory_due_ns = now_ns + MEMORY_EVERY_NS
            self._waiting.append(self._memory_of(side))
        if self._at_work and not self._waiting and now_ns >= self._sent_ns + ALIVE_EVERY_S * 1e9:
            self._waiting.append({"event": "alive"})
        return self._drain(now_ns)

    def _send_forever(self) -> None:
        try:
            closed = False
            while not closed:
                self._wake.wait(self._pause_s())
                self._wake.clear()
                closed = self.pump()
        except BaseException:
            # Nobody would ever hear of this process again: its end is the report, with the last line of stderr.
            traceback.print_exc()
            sys.stderr.flush()
            os._exit(1)

    def _pause_s(self) -> float | None:
        if self._side is not None:
            return SEND_EVERY_S
        return ALIVE_EVERY_S if self._at_work else None

    def _memory_of(self, side: Side) -> Message:
        """A side that cannot say what it holds is at fault in the middle of a run: its process is not used again."""
        try:
            return memory_event(side, self._clock.now_ns())
        except Exception as error:
            self._side = None  # said once
            if isinstance(error, KernelFaultError):
                return error_event(error, "memory")
            traceback.print_exc()
            return error_event(WorkerError(f"{type(error).__name__} in memory: {error}"), "memory")

    def _drain(self, now_ns: int) -> bool:
        """Writes everything that waits; consecutive steps become one event. True after `closed`."""
        messages: list[Message] = []
        closed = False
        while self._waiting:
            item = self._waiting.popleft()
            if isinstance(item, dict):
                messages.append(item)
                closed = closed or item["event"] == "closed"
                continue
            if not messages or messages[-1]["event"] != "tokens":
                messages.append({"event": "tokens", "row": [], "time_ns": [], "id": []})
            batch, (time_ns, token_ids) = messages[-1], item
            for row, token_id in enumerate(token_ids):
                if token_id is not None:
                    batch["row"].append(row)
                    batch["time_ns"].append(time_ns)
                    batch["id"].append(token_id)
        if messages:
            self._sent_ns = now_ns
            self._stream.write("".join(json.dumps(message) + "\n" for message in messages))
            self._stream.flush()
        return closed


class WorkerSink:
    """The sink of one run: everything goes to the outbox, or, in a warm-up, nowhere."""

    def __init__(self, outbox: Outbox, stop: threading.Event, clock: Clock, warm_up: bool) -> None:
        self._outbox, self._stop, self._clock, self._warm_up = outbox, stop, clock, warm_up

    @property
    def stopped(self) -> bool:
        return self._stop.is_set()

    def started(self, time_ns: int) -> None:
        if not self._warm_up:
            self._outbox.put({"event": "started", "t0_ns": time_ns})

    def tokens(self, time_ns: int, token_ids: Sequence[int | None]) -> None:
        if not self._warm_up:
            self._outbox.step(time_ns, token_ids)

    def progress(self, done_tokens: int, total_tokens: int) -> None:
        if not self._warm_up:
            now_ns = self._clock.now_ns()
            self._outbox.put({"event": "progress", "time_ns": now_ns, "done": done_tokens, "total": total_tokens})


def memory_event(side: Side, time_ns: int) -> Message:
    kinds: Mapping[str, int] = side.memory_bytes()
    return {"event": "memory", "time_ns": time_ns, "kinds": dict(kinds)}


def error_event(error: Exception, doing: str) -> Message:
    """An error as the parent raises it again: by its class if it is one of ours, else as the fault of the worker."""
    if isinstance(error, EetError):
        return {"event": "error", "type": type(error).__name__, "message": str(error)}
    if isinstance(error, MemoryError):
        message = f"out of memory in {doing}: {error}; choose a smaller model, context or batch"
        return {"event": "error", "type": "MemoryPlanError", "message": message}
    return {"event": "error", "type": "WorkerError", "message": f"{type(error).__name__} in {doing}: {error}"}
