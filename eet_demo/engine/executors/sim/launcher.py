"""The simulator behind the launcher interface: kernels run on the CPU, every CUDA thread a fiber (kernels/sim/)."""

from __future__ import annotations

import ctypes
import mmap
import threading
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eet_demo.engine.executors.cuda.arrays import DeviceArray, DType, from_host, to_host
from eet_demo.engine.executors.cuda.compile.launch import Argument, Instance, LaunchConfig, check_argument, pack
from eet_demo.engine.executors.cuda.compile.sources import CUDA_SOURCES
from eet_demo.engine.executors.sim.build import SimBuilder, SimMode
from eet_demo.engine.executors.sim.isolated import run_isolated
from eet_demo.errors import KernelFaultError, UnsupportedError

SIMULATED_PROCESSORS = 4
"""Few, so that blocks have several tiles and their common work is done a few times only."""

POISON = 0xFF
GUARD = 0xA5
GUARD_BYTES = 256
"""Before and after every array, checked after every launch; also keeps arrays 256-byte aligned, as cudaMalloc does."""

MAX_RACE_THREADS = 4000
"""ThreadSanitizer knows about 8,000 threads in a process's life."""


_RUNTIME = threading.Lock()
"""The process has one simulated device, and ctypes lets other Python threads run meanwhile."""


class _Launch(ctypes.Structure):
    """sim::Launch of kernels/sim/state.h."""

    _fields_ = [
        ("grid", ctypes.c_uint32 * 3),
        ("block", ctypes.c_uint32 * 3),
        ("shared_bytes", ctypes.c_uint64),
        ("cooperative", ctypes.c_uint32),
        ("seed", ctypes.c_uint32),
    ]


class SimLauncher:
    """Runs kernels thread by thread.

    Args:
        mode: `plain` runs in this process; `address` and `race` run each launch in a process of its own under
            AddressSanitizer (with red zones around every array) or ThreadSanitizer (every CUDA thread a thread).
        defines: macros of the kernels, as NO_PREFETCH.
        seed: 0 runs threads in natural order, 1 in reverse, others in a random order.
        folder: where `<stem>.cu` lies.
        build: where binaries are kept; None for the usual cache.
        processors: multiprocessors that launches are dealt to; what is computed does not depend on them.
    """

    capability = None

    def __init__(
        self,
        mode: SimMode = "plain",
        seed: int = 0,
        folder: Path = CUDA_SOURCES,
        build: Path | None = None,
        defines: tuple[str, ...] = (),
        processors: int = SIMULATED_PROCESSORS,
    ) -> None:
        self.processors = processors
        self.mode = mode
        self.seed = seed
        self._builder = SimBuilder(mode, folder, build, defines)
        self._libraries: dict[Instance, ctypes.CDLL] = {}

    def prepare(self, instances: Iterable[Instance]) -> None:
        self._builder.build_all(list(instances))

    def bind(self, instance: Instance, config: LaunchConfig, arguments: Sequence[Argument]) -> Callable[[], None]:
        return partial(self.launch, instance, config, tuple(arguments))

    def launch(self, instance: Instance, config: LaunchConfig, arguments: Sequence[Argument]) -> None:
        """Runs to the end. Raises KernelFaultError for whatever mistake the simulator finds."""
        for index, argument in enumerate(arguments):
            check_argument(index, argument)
        record = _Launch(config.grid, (config.threads, 1, 1), config.shared_bytes, int(config.cooperative), self.seed)
        if self.mode == "plain":
            self._run_here(instance, record, arguments)
        else:
            threads = config.threads * int(np.prod(config.grid))
            if self.mode == "race" and threads > MAX_RACE_THREADS:
                raise UnsupportedError(
                    f"the race mode takes at most {MAX_RACE_THREADS} threads a launch, not {threads}"
                )
            run_isolated(self._builder.build(instance), instance, bytes(record), arguments)
        self._check_guards(instance, arguments)

    def empty(self, shape: tuple[int, ...], dtype: DType) -> DeviceArray:
        array = _allocate(shape, dtype)
        _raw(array)[:] = POISON
        return array

    def upload(self, values: NDArray[Any], dtype: DType) -> DeviceArray:
        array = _allocate(values.shape, dtype)
        self.write(array, values)
        return array

    def write(self, array: DeviceArray, values: NDArray[Any]) -> None:
        if values.shape != array.shape:
            raise UnsupportedError(f"values of shape {values.shape} for an array of shape {array.shape}")
        _raw(array)[:] = to_host(values, array.dtype).reshape(-1).view(np.uint8)

    def download(self, array: DeviceArray) -> NDArray[Any]:
        host_dtype = np.dtype(np.uint16 if array.dtype == "bfloat16" else array.dtype)
        return from_host(_raw(array).copy().view(host_dtype).reshape(array.shape), array.dtype)

    def synchronise(self) -> None:
        """Launches run to their end at once."""

    def _run_here(self, instance: Instance, record: _Launch, arguments: Sequence[Argument]) -> None:
        library = self._library(instance)
        check_signature(instance, library.sim_signature().decode(), arguments)
        cells = [ctypes.create_string_buffer(pack(argument), 8) for argument in arguments]
        pointers = (ctypes.c_void_p * max(1, len(cells)))(*[ctypes.addressof(cell) for cell in cells])
        message = ctypes.create_string_buffer(8192)
        with _RUNTIME:
            failed = library.sim_launch(ctypes.byref(record), pointers, message, len(message))
        if failed:
            raise KernelFaultError(f"{instance.expression}: {message.value.decode()}")

    def _library(self, instance: Instance) -> ctypes.CDLL:
        if instance not in self._libraries:
            (runtime,) = self._builder.runtime()
            ctypes.CDLL(str(runtime), mode=ctypes.RTLD_GLOBAL)
            library = ctypes.CDLL(str(self._builder.build(instance)))
            library.sim_signature.restype = ctypes.c_char_p
            library.sim_launch.argtypes = [
                ctypes.POINTER(_Launch), ctypes.c_void_p, ctypes.c_char_p, ctypes.c_size_t,
            ]  # fmt: skip
            self._libraries[instance] = library
        return self._libraries[instance]

    def _check_guards(self, instance: Instance, arguments: Sequence[Argument]) -> None:
        for index, argument in enumerate(arguments):
            if isinstance(argument, DeviceArray) and isinstance(argument.owner, _Memory):
                argument.owner.check(f"{instance.expression}, argument {index}")


class _Memory:
    """One allocation with guard bytes on both sides."""

    def __init__(self, nbytes: int) -> None:
        self.map = mmap.mmap(-1, nbytes + 2 * GUARD_BYTES)
        self.bytes: NDArray[np.uint8] = np.frombuffer(self.map, np.uint8)
        self.bytes[:GUARD_BYTES] = GUARD
        self.bytes[GUARD_BYTES + nbytes :] = GUARD
        self.end = GUARD_BYTES + nbytes
        self.pointer = self.bytes.ctypes.data + GUARD_BYTES

    def check(self, what: str) -> None:
        if (self.bytes[:GUARD_BYTES] != GUARD).any():
            raise KernelFaultError(f"{what}: a write before the start of the array; the address mode names the line")
        if (self.bytes[self.end :] != GUARD).any():
            raise KernelFaultError(f"{what}: a write past the end of the array; the address mode names the line")


def _allocate(shape: tuple[int, ...], dtype: DType) -> DeviceArray:
    nbytes = DeviceArray(0, shape, dtype).nbytes
    memory = _Memory(nbytes)
    return DeviceArray(memory.pointer, shape, dtype, memory)


def _raw(array: DeviceArray) -> NDArray[np.uint8]:
    """The array's bytes, not copied."""
    return np.ctypeslib.as_array((ctypes.c_uint8 * array.nbytes).from_address(array.pointer))


def check_signature(instance: Instance, signature: str, arguments: Sequence[Argument]) -> None:
    """Raises TypeError when the arguments are not what the kernel declares; a GPU would read garbage instead."""
    declared = signature.split(",") if signature else []
    if len(declared) != len(arguments):
        raise TypeError(f"{instance.expression} takes {len(declared)} arguments, not {len(arguments)}: {signature}")
    for index, (wanted, argument) in enumerate(zip(declared, arguments, strict=True)):
        if argument is None:
            fits = wanted.startswith("*")
        elif isinstance(argument, DeviceArray):
            fits = wanted in ("*void", f"*{argument.dtype}")
        else:
            fits = wanted == argument.dtype.name
        if not fits:
            given = argument.dtype if argument is not None else "None"
            raise TypeError(f"{instance.expression}: argument {index} is {given}, the kernel declares {wanted}")
