"""How long work takes on a GPU and its host."""

from __future__ import annotations

import importlib
import statistics
import time
from collections.abc import Callable
from typing import Any, Protocol

ROUNDS = 7

Work = Callable[[], None]


class Clock(Protocol):
    """How long work takes. Tests have one for the simulator, where time means nothing."""

    def host_s(self, work: Work, calls: int) -> float:
        """Seconds of the host a call, the queue not waited for."""

    def device_s(self, work: Work) -> float:
        """Seconds of the device from the start of `work` to its end."""

    def graph_s(self, work: Work) -> float:
        """The same for `work` captured in a CUDA graph and replayed."""


class TorchClock:
    """CUDA events on torch's current stream; the median of ROUNDS rounds after one that is not counted."""

    def __init__(self) -> None:
        self._torch: Any = importlib.import_module("torch")

    def stream(self) -> int:
        """What a CupyLauncher launches on: torch's current stream, that of a capture while one goes on."""
        return int(self._torch.cuda.current_stream().cuda_stream)

    def host_s(self, work: Work, calls: int) -> float:
        def once() -> float:
            self._torch.cuda.synchronize()
            begin_s = time.perf_counter()
            for _ in range(calls):
                work()
            return (time.perf_counter() - begin_s) / calls

        return _median_of_rounds(once)

    def device_s(self, work: Work) -> float:
        def once() -> float:
            begin, end = (self._torch.cuda.Event(enable_timing=True) for _ in range(2))
            begin.record()
            work()
            end.record()
            end.synchronize()
            return float(begin.elapsed_time(end)) / 1e3

        return _median_of_rounds(once)

    def graph_s(self, work: Work) -> float:
        work()  # a capture must compile nothing
        self._torch.cuda.synchronize()
        graph = self._torch.cuda.CUDAGraph()
        with self._torch.cuda.graph(graph):
            work()
        return self.device_s(graph.replay)


def _median_of_rounds(once: Callable[[], float]) -> float:
    once()
    return statistics.median(once() for _ in range(ROUNDS))
