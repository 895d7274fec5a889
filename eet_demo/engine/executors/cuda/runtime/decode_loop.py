"""Decoding without the host: steps are launched a few ahead, and each token is stamped as it reaches host memory."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Generator
from dataclasses import dataclass
from math import ceil

import numpy as np
from numpy.typing import NDArray

from eet_demo.engine.executors import ENDED, Step
from eet_demo.engine.executors.cuda.arrays import DeviceArray
from eet_demo.engine.executors.cuda.runtime.arena import Arena
from eet_demo.engine.executors.cuda.runtime.devices import Device, Replay
from eet_demo.engine.executors.cuda.runtime.inputs import RowState, bucket_of, upload_rows
from eet_demo.engine.executors.cuda.runtime.lowering import Lowering
from eet_demo.engine.sampling import check_drawn
from eet_demo.errors import KernelFaultError

AHEAD_S = 0.010
"""Seconds of steps that are under way: another thread may hold the interpreter for 5 ms, and no device must wait."""

LEAST_AHEAD, MOST_AHEAD = 4, 64
"""Steps: enough to hide a launch where each is slow, and few enough that Stop acts at once where each is fast."""

RING = 128
"""Entries; more than can be under way."""

PAUSE_S = 30e-6
"""Between two looks at the ring, so that other threads may run."""

LOOKS = 2000
"""At the ring, between two looks at the device for an error."""

PATIENCE_S = 60.0
"""For one step, after which a device that reports no error is taken for dead."""


@dataclass(frozen=True)
class Timing:
    """The host's clock, in nanoseconds, and its sleep, in seconds: tests have their own."""

    now_ns: Callable[[], int] = time.perf_counter_ns
    sleep: Callable[[float], None] = time.sleep


HOST = Timing()


class TokenRing:
    """Tokens in host memory, stored there by `sample` while the host reads: (RING, rows, 2), token and sequence."""

    def __init__(self, device: Device, max_rows: int, timing: Timing = HOST) -> None:
        self._device, self._timing = device, timing
        self._memory = device.ring(RING * max_rows * 2)
        self._host: NDArray[np.int32] = self._memory.numpy()

    def now_ns(self) -> int:
        """The clock that tokens are stamped by."""
        return self._timing.now_ns()

    def array(self, rows: int) -> DeviceArray:
        return DeviceArray(self._memory.data_ptr(), (RING, rows, 2), "int32", self._memory)

    def clear(self) -> None:
        """Between requests, when nothing is under way: sequences begin again."""
        self._host[:] = 0

    def wait(self, sequence: int, rows: int) -> tuple[NDArray[np.int32], int]:
        """Tokens (rows,) of a launch since `clear`, and the perf_counter_ns at which all were here.

        Raises:
            KernelFaultError: the device failed, or is silent.
        """
        entry = self._host[: RING * rows * 2].reshape(RING, rows, 2)[sequence % RING]
        stamps, timing = entry[:, 1], self._timing
        deadline = timing.now_ns() + int(PATIENCE_S * 1e9)
        while True:
            for _ in range(LOOKS):
                if (stamps == sequence + 1).all():
                    now = timing.now_ns()
                    return entry[:, 0].copy(), now
                timing.sleep(PAUSE_S)
            self._device.check()
            if timing.now_ns() > deadline:
                raise KernelFaultError(f"the device has not finished a step in {PATIENCE_S:.0f} s")


class DecodeLoop:
    """Launches steps, captured once for each number of rows, length bucket and number of steps, and collects tokens."""

    def __init__(
        self,
        lowering: Lowering,
        device: Device,
        arena: Arena,
        ring: TokenRing,
        max_context: int,
        tokens_per_graph: int,
        graph: bool,
    ) -> None:
        self._lowering, self._device, self._arena, self._ring = lowering, device, arena, ring
        self._max_context, self._together, self._graph = max_context, tokens_per_graph, graph
        self._steps: dict[tuple[int, int, int], Replay] = {}

    def run(self, step: Step, count: int, stop: frozenset[int]) -> Generator[tuple[NDArray[np.int32], int]]:
        """See `Executor.decode`."""
        rows, first = step.rows, int(step.positions.max()) + 1
        for bucket, together in self._kinds(first, count):
            self._prepare(step, stop, bucket, together)
        launched, running = 0, np.ones(rows, np.bool_)
        self._begin(step, stop)
        pace = Pace(self._ring.now_ns())
        try:
            for sequence in range(count):
                while launched < min(count, sequence + pace.ahead):
                    bucket, together = self._next(first + launched, count - launched)
                    with self._device.active():
                        self._steps[rows, bucket, together]()
                    launched += together
                tokens, now = self._ring.wait(sequence, rows)
                pace.saw(now)
                yield check_drawn(tokens, step.sample_rows), now
                running &= [token != ENDED and token not in stop for token in tokens.tolist()]
                if not running.any():
                    return
        finally:
            self._device.synchronise()

    def _begin(self, step: Step, stop: frozenset[int]) -> RowState:
        """The state of `step` on the device; its arrays depend on the number of rows alone."""
        self._ring.clear()
        with self._device.active():
            return upload_rows(self._arena, step, stop)

    def _prepare(self, step: Step, stop: frozenset[int], bucket: int, together: int) -> None:
        """Captures so many steps of this many rows and this bucket, if they have not been yet."""
        if (step.rows, bucket, together) in self._steps:
            return
        state = self._begin(step, stop)
        ring = self._ring.array(step.rows)

        def work() -> None:
            for _ in range(together):
                self._lowering.decode_step(state, bucket, ring)

        with self._device.active():
            self._steps[step.rows, bucket, together] = self._device.capture(work) if self._graph else work
        self._device.synchronise()

    def _next(self, length: int, left: int) -> tuple[int, int]:
        """The bucket of a step at `length`, and how many steps go together: as many only where all are of one bucket
        and none is beyond what is asked for."""
        bucket = bucket_of(length, self._max_context)
        whole = left >= self._together and length + self._together - 1 <= bucket
        return bucket, self._together if whole else 1

    def _kinds(self, first: int, count: int) -> set[tuple[int, int]]:
        """Those that a request of `count` steps passes through, so that none is captured in its midst."""
        kinds, done = set(), 0
        while done < count:
            bucket, together = self._next(first + done, count - done)
            kinds.add((bucket, together))
            done += together
        return kinds


class Pace:
    """How many steps to have under way, from the time that the last ones took.

    Args:
        start_ns: before the first was launched.
    """

    def __init__(self, start_ns: int) -> None:
        self._stamps: deque[int] = deque([start_ns], maxlen=MOST_AHEAD)

    def saw(self, stamp_ns: int) -> None:
        """A step's tokens were there."""
        self._stamps.append(stamp_ns)

    @property
    def ahead(self) -> int:
        steps = len(self._stamps) - 1
        if steps < 1:
            return LEAST_AHEAD
        step_s = (self._stamps[-1] - self._stamps[0]) / steps * 1e-9
        return max(LEAST_AHEAD, min(MOST_AHEAD, ceil(AHEAD_S / max(step_s, 1e-6))))
