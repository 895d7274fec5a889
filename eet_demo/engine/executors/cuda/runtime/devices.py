"""The two devices behind one executor: a GPU through torch and CuPy, and the simulator."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Protocol

import torch

from eet_demo.engine.dtypes import Real
from eet_demo.engine.executors.cuda.compile.cupy_launcher import CupyLauncher, import_cupy
from eet_demo.engine.executors.cuda.compile.launch import Instance
from eet_demo.engine.executors.cuda.faults import device_faults
from eet_demo.engine.executors.cuda.runtime.arena import TORCH_DTYPE
from eet_demo.engine.executors.cuda.runtime.queue import Queue
from eet_demo.engine.executors.sim.launcher import SIMULATED_PROCESSORS, SimLauncher
from eet_demo.errors import MemoryPlanError, UnsupportedError
from eet_demo.paths import kernel_cache
from eet_demo.records import EngineOptions

OLDEST_CAPABILITY = 75
BFLOAT16_CAPABILITY = 80
BANDWIDTH_PASSES = 10

Replay = Callable[[], object]


class Device(Protocol):
    """What the executor needs of a device beside its launches.

    Args:
        queue: takes all work.
        processors: multiprocessors.
        capability: 90 for sm_90; None on the simulator.
    """

    queue: Queue
    processors: int
    capability: int | None

    def prepare(self, instances: Iterable[Instance]) -> None:
        """Told of every kernel that may be launched, before any is."""

    def allocate(self, nbytes: int) -> torch.Tensor:
        """uint8 (nbytes,) of device memory, unwritten."""

    def ring(self, words: int) -> torch.Tensor:
        """int32 (words,) of host memory that kernels can write while the host reads, zeroed."""

    def active(self) -> AbstractContextManager[Any]:
        """Inside, work goes to this device's own stream, whatever thread is running.

        Errors of the device leave it as KernelFaultError, or MemoryPlanError where there was no memory.
        """

    def capture(self, work: Callable[[], None]) -> Replay:
        """`work` as one graph. It may be run once beforehand, so it must do no harm."""

    def check(self) -> None:
        """Raises KernelFaultError when something enqueued so far has failed."""

    def synchronise(self) -> None:
        """Returns when all work is done; raises KernelFaultError when some of it failed."""

    def read_bandwidth_gb_s(self, memory: torch.Tensor) -> float | None:
        """1e9 bytes a second, streaming through `memory`; None where that says nothing."""


class SimDevice:
    """The simulator: work is done when it is launched, and a graph is a list that is run again."""

    capability = None
    processors = SIMULATED_PROCESSORS

    def __init__(self, options: EngineOptions) -> None:
        """Raises KernelCompileError where the simulator cannot run."""
        self.queue = Queue(SimLauncher(defines=_defines(options)))

    def prepare(self, instances: Iterable[Instance]) -> None:
        """Nothing: each is built when it is first launched, and most never are."""

    def allocate(self, nbytes: int) -> torch.Tensor:
        return torch.empty(nbytes, dtype=torch.uint8)

    def ring(self, words: int) -> torch.Tensor:
        return torch.zeros(words, dtype=torch.int32)

    def active(self) -> AbstractContextManager[Any]:
        return nullcontext()

    def capture(self, work: Callable[[], None]) -> Replay:
        with self.queue.recording() as recording:
            work()
        return recording.replay

    def check(self) -> None:
        """A fault was raised where it happened."""

    def synchronise(self) -> None:
        """Nothing is ever under way."""

    def read_bandwidth_gb_s(self, memory: torch.Tensor) -> float | None:
        return None


class CudaDevice:
    """The current GPU. torch owns memory, streams and graphs; CuPy compiles kernels and launches them."""

    def __init__(self, dtype: Real, options: EngineOptions) -> None:
        """Raises UnsupportedError without CuPy, a driver, or a GPU that is new enough, and what `active` raises."""
        require_gpu()
        with device_faults():
            launcher = CupyLauncher(
                lambda: int(torch.cuda.current_stream().cuda_stream),
                cubins=kernel_cache("cubins"),
                overlap=options.pdl,
                defines=_defines(options),
            )
            self.capability = launcher.capability
            check_capability(self.capability, dtype)
            self.processors = launcher.processors
            self._stream: torch.cuda.Stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        self._dtype = TORCH_DTYPE[dtype]
        self.queue = Queue(launcher, wait_after_launch=options.debug)

    def prepare(self, instances: Iterable[Instance]) -> None:
        """Compiles them or loads them from the kernel cache, and lets cuBLAS take its workspace: no step waits."""
        with self.active():
            self.queue.prepare(instances)
            small = torch.ones(16, 16, dtype=self._dtype, device="cuda")
            torch.mm(small, small)

    def allocate(self, nbytes: int) -> torch.Tensor:
        try:
            return torch.empty(nbytes, dtype=torch.uint8, device="cuda")
        except torch.OutOfMemoryError as error:
            free, total = torch.cuda.mem_get_info()
            raise MemoryPlanError(
                f"the plan of {nbytes:,} bytes could not be allocated: {free:,} of the GPU's {total:,} bytes are free "
                f"({str(error).splitlines()[0]}). Choose a smaller model, context or batch."
            ) from None

    def ring(self, words: int) -> torch.Tensor:
        with self._faults():
            return torch.zeros(words, dtype=torch.int32, pin_memory=True)

    @contextmanager
    def active(self) -> Iterator[None]:
        with self._faults(), torch.cuda.stream(self._stream):
            yield

    def capture(self, work: Callable[[], None]) -> Replay:
        work()  # modules load at their first launch, cuBLAS allocates at its first GEMM: neither may in a capture
        torch.cuda.current_stream().synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            work()
        return graph.replay

    def check(self) -> None:
        with self._faults():
            self._stream.query()

    def synchronise(self) -> None:
        with self._faults():
            self._stream.synchronize()

    def read_bandwidth_gb_s(self, memory: torch.Tensor) -> float | None:
        """The best of a few sums over the whole of it, by the GPU's own clock."""
        words = memory[: memory.numel() // 4 * 4].view(torch.float32)
        best = float("inf")
        with self.active():
            for _ in range(BANDWIDTH_PASSES):
                start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
                start.record()
                torch.sum(words)
                end.record()
                end.synchronize()
                best = min(best, start.elapsed_time(end))
        return 4 * words.numel() / best / 1e6

    def _faults(self) -> AbstractContextManager[None]:
        return device_faults(self.queue.recent)


def require_gpu() -> None:
    """Raises UnsupportedError naming what is missing: CuPy, a driver, a GPU, or a torch built for CUDA."""
    import_cupy()
    if not torch.cuda.is_available():
        raise UnsupportedError(
            f"device 'cuda' needs a torch that was built for CUDA and for this driver; this is {torch.__version__} "
            f"(CUDA {torch.version.cuda})"
        )


KEPT_FREE_BYTES = 256 << 20
"""Beside a plan, for what comes after it: loaded kernels, captured graphs, local memory of threads."""


def free_memory_bytes() -> int:
    """Memory of the current GPU that a plan may take: what is free, less KEPT_FREE_BYTES.

    Raises:
        UnsupportedError: there is no GPU.
        MemoryPlanError: it is full.
    """
    require_gpu()
    with device_faults():
        return max(0, int(torch.cuda.mem_get_info()[0]) - KEPT_FREE_BYTES)


def check_capability(capability: int, dtype: Real) -> None:
    """Raises UnsupportedError for a GPU that is too old, or too old for `dtype`."""
    if capability < OLDEST_CAPABILITY:
        raise UnsupportedError(
            f"this GPU is sm_{capability}; sm_{OLDEST_CAPABILITY} (Turing) and later are supported: use device='cpu'"
        )
    if dtype == "bfloat16" and capability < BFLOAT16_CAPABILITY:
        raise UnsupportedError(f"bfloat16 needs sm_80 or later; this GPU is sm_{capability}: use float16 or float32")


def _defines(options: EngineOptions) -> tuple[str, ...]:
    return () if options.prefetch else ("NO_PREFETCH",)
