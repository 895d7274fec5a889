"""Steps are generators that yield whenever they wait: how they are paced, joined, and wait for a worker's word."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Generator, Iterable
from typing import TypeVar

from eet_demo.clock import Clock
from eet_demo.errors import WorkerError
from eet_demo.worker.handle import WorkerHandle
from eet_demo.worker.outbox import Message

Result = TypeVar("Result")

Waiting = Generator[None, None, None]
"""Steps without a result."""

TICK_NS = 50_000_000
STOP_GRACE_NS = 1_000_000_000
DOUBT_NS = 5_000_000_000
"""Silence after which it is asked whether the process still exists: one that was forked from it may hold its pipe."""
SILENT_NS = 60_000_000_000
"""Silence after which a worker hangs. One at work says so every second, however long it computes without a token."""


class StopSign(threading.Event):
    """Set once a race is to end early; `why` is what its page says."""

    why = "stopped by the visitor"

    def end(self, why: str) -> None:
        """Ends the race for another reason than the visitor's."""
        self.why = why
        self.set()


class Halted(Exception):  # noqa: N818 - a request, not an error
    """The sign is set. `deaf`: the worker did not hear of it within STOP_GRACE_NS and is still busy."""

    def __init__(self, deaf: bool = False) -> None:
        super().__init__()
        self.deaf = deaf


def paced(steps: Generator[None, None, Result], clock: Clock) -> Generator[None, None, Result]:
    """The same steps, TICK_NS apart or as fast as they go when they take longer; they are closed with it."""
    due_ns = clock.now_ns()
    with contextlib.closing(steps):
        while True:
            try:
                next(steps)
            except StopIteration as end:
                result: Result = end.value
                return result
            yield
            due_ns = max(due_ns + TICK_NS, clock.now_ns())
            clock.sleep(max(0, due_ns - clock.now_ns()) / 1e9)


def finish(steps: Generator[None, None, Result]) -> Result:
    """Runs steps to their end."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            result: Result = end.value
            return result


def at_once(steps: Iterable[Waiting]) -> Waiting:
    """Advances every generator once a tick until all have ended."""
    running = list(steps)
    while running:
        running = [each for each in running if _advance(each)]
        if running:
            yield


def _advance(steps: Waiting) -> bool:
    try:
        next(steps)
    except StopIteration:
        return False
    return True


def listen(
    handle: WorkerHandle, wanted: str, hear: Callable[[list[Message]], None], stop: StopSign, clock: Clock
) -> Generator[None, None, Message]:
    """Waits until the worker sends `wanted`; `hear` gets, once a tick, what it has sent since, and may raise.

    Raises:
        WorkerError: the worker died, or hangs.
        Halted: `stop` is set; the worker has stopped, or is deaf.
    """
    heard_ns = clock.now_ns()
    stop_due_ns: int | None = None
    found: Message | None = None
    while True:
        if events := handle.poll():
            heard_ns = clock.now_ns()
        hear(events)
        found = next((event for event in events if event["event"] == wanted), found)
        _check_silence(handle, wanted, clock.now_ns() - heard_ns)
        if stop.is_set():
            if stop_due_ns is None:
                handle.send({"cmd": "stop"})
                stop_due_ns = clock.now_ns() + STOP_GRACE_NS
            if found is not None or clock.now_ns() > stop_due_ns:
                raise Halted(deaf=found is None)
        elif found is not None:
            return found
        yield


def _check_silence(handle: WorkerHandle, wanted: str, silent_ns: int) -> None:
    if silent_ns > DOUBT_NS and not handle.alive:
        raise WorkerError(handle.death())
    if silent_ns > SILENT_NS:
        raise WorkerError(
            f"the worker of {handle.options.side} has given no sign of life for {silent_ns // 10**9} s while "
            f"{wanted!r} was awaited: it hangs, and is ended"
        )
