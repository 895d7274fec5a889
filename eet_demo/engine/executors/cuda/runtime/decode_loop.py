"""Decoding without the host: steps are launched a few ahead, and each token is stamped as it reaches host memory."""

from __future__ import annotations

import time
from collections.abc import Generator

import numpy as np
from numpy.typing import NDArray

from eet_demo.engine.executors import ENDED, Step
from eet_demo.engine.executors.cuda.arrays import DeviceArray
from eet_demo.engine.executors.cuda.runtime.arena import Arena
from eet_demo.engine.executors.cuda.runtime.devices import Device, Replay
from eet_demo.engine.executors.cuda.runtime.inputs import BUCKETS, RowState, bucket_of, upload_rows
from eet_demo.engine.executors.cuda.runtime.lowering import Lowering
from eet_demo.engine.sampling import check_drawn
from eet_demo.errors import KernelFaultError

AHEAD = 4
"""Steps that may be under way: enough to hide a launch, few enough that Stop acts at once."""

RING = 8
"""Entries; more than can be under way."""

LOOKS = 2000
"""At the ring, between two looks at the device for an error."""

PATIENCE_S = 60.0
"""For one step, after which a device that reports no error is taken for dead."""


class TokenRing:
    """Tokens in host memory, stored there by `sample` while the host reads: (RING, rows, 2), token and sequence."""

    def __init__(self, device: Device, max_rows: int) -> None:
        self._device = device
        self._memory = device.ring(RING * max_rows * 2)
        self._host: NDArray[np.int32] = self._memory.numpy()

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
        stamps, deadline = entry[:, 1], 0.0
        while True:
            for _ in range(LOOKS):
                if (stamps == sequence + 1).all():
                    now = time.perf_counter_ns()
                    return entry[:, 0].copy(), now
            self._device.check()
            deadline = deadline or time.perf_counter() + PATIENCE_S
            if time.perf_counter() > deadline:
                raise KernelFaultError(f"the device has not finished a step in {PATIENCE_S:.0f} s")


class DecodeLoop:
    """Launches steps, captured once for each number of rows and length bucket, and collects their tokens."""

    def __init__(
        self, lowering: Lowering, device: Device, arena: Arena, ring: TokenRing, max_context: int, graph: bool
    ) -> None:
        self._lowering, self._device, self._arena, self._ring = lowering, device, arena, ring
        self._max_context, self._graph = max_context, graph
        self._steps: dict[tuple[int, int], Replay] = {}

    def run(self, step: Step, count: int, stop: frozenset[int]) -> Generator[tuple[NDArray[np.int32], int]]:
        """See `Executor.decode`."""
        rows, first = step.rows, int(step.positions.max()) + 1
        for bucket in self._buckets(first, count):
            self._prepare(step, stop, bucket)
        launched, running = 0, np.ones(rows, np.bool_)
        self._begin(step, stop)
        try:
            for sequence in range(count):
                while launched < min(count, sequence + AHEAD):
                    with self._device.active():
                        self._steps[rows, bucket_of(first + launched, self._max_context)]()
                    launched += 1
                tokens, now = self._ring.wait(sequence, rows)
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

    def _prepare(self, step: Step, stop: frozenset[int], bucket: int) -> None:
        """Captures the step of this many rows and this bucket, if it has not been yet."""
        if (step.rows, bucket) in self._steps:
            return
        state = self._begin(step, stop)
        ring = self._ring.array(step.rows)

        def work() -> None:
            self._lowering.decode_step(state, bucket, ring)

        with self._device.active():
            self._steps[step.rows, bucket] = self._device.capture(work) if self._graph else work
        self._device.synchronise()

    def _buckets(self, first: int, count: int) -> list[int]:
        """Those that a request of `count` steps passes through, so that none is captured in its midst."""
        last = first + count - 1
        ends = [first, last, *(bucket + 1 for bucket in BUCKETS if first <= bucket < last)]
        return sorted({bucket_of(length, self._max_context) for length in ends})
