"""What a launch is, and the one interface that CuPy and the simulator both offer."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from eet_demo.engine.executors.cuda.arrays import CPP_NAME, DeviceArray, DType
from eet_demo.errors import UnsupportedError

Scalar = np.int32 | np.uint32 | np.int64 | np.uint64 | np.float32
"""The only scalars a kernel takes: CuPy would pass a bare int as 8 bytes and a bare float as a double."""

Argument = DeviceArray | Scalar | None
"""None is a null pointer."""

MAX_GRID = (2**31 - 1, 65535, 65535)
MAX_SHARED_BYTES = 48 * 1024
"""Dynamic shared memory that needs no opt-in; the CuPy launcher opts in above it."""


@dataclass(frozen=True)
class Instance:
    """One compiled kernel: `stem` names the file, `arguments` its template arguments (a dtype, an int or a bool)."""

    stem: str
    arguments: tuple[str | int | bool, ...] = ()
    kernel: str = ""

    @property
    def expression(self) -> str:
        """`embed<half, 0, 1, 96, 1>`: the name expression that NVRTC and g++ both understand."""
        name = self.kernel or self.stem
        return f"{name}<{', '.join(map(_cpp, self.arguments))}>" if self.arguments else name


def _cpp(argument: str | int | bool) -> str:
    if isinstance(argument, bool):
        return "true" if argument else "false"
    return CPP_NAME[argument] if isinstance(argument, str) else str(int(argument))


@dataclass(frozen=True)
class LaunchConfig:
    """Grid and block of a launch. `threads` is also a template argument of the instance, so the two cannot differ.

    Args:
        threads: of a one-dimensional block, a multiple of 32 up to 1024.
        grid: blocks along x, y, z.
        shared_bytes: dynamic shared memory.
        cooperative: every block is resident at once, so blocks may wait for each other.
        overlaps: may start before the preceding kernel ends (programmatic dependent launch, sm_90 and later).
    """

    threads: int
    grid: tuple[int, int, int] = (1, 1, 1)
    shared_bytes: int = 0
    cooperative: bool = False
    overlaps: bool = False

    def __post_init__(self) -> None:
        if self.threads % 32 or not 32 <= self.threads <= 1024:
            raise UnsupportedError(f"a block of {self.threads} threads: a multiple of 32 from 32 to 1024 is supported")
        if any(not 1 <= blocks <= limit for blocks, limit in zip(self.grid, MAX_GRID, strict=True)):
            raise UnsupportedError(f"a grid of {self.grid} blocks: at least 1 and at most {MAX_GRID} are supported")

    def with_overlap(self, overlaps: bool) -> LaunchConfig:
        return replace(self, overlaps=overlaps)


class Launcher(Protocol):
    """Compiles and launches kernels on memory it allocated. Both implementations take the same calls."""

    @property
    def processors(self) -> int:
        """Multiprocessors of the device."""

    @property
    def capability(self) -> int | None:
        """90 for sm_90; None on the simulator."""

    def prepare(self, instances: Iterable[Instance]) -> None:
        """Compiles what is not in the kernel cache, so that no launch has to.

        Raises:
            KernelCompileError: no compiler, or it refused the source; the message carries the numbered source.
        """

    def bind(self, instance: Instance, config: LaunchConfig, arguments: Sequence[Argument]) -> Callable[[], None]:
        """A launch with everything checked and packed, to be called as often as wanted. Raises as `launch` does."""

    def launch(self, instance: Instance, config: LaunchConfig, arguments: Sequence[Argument]) -> None:
        """Enqueues one launch. Raises TypeError for an argument that is neither an array nor a typed scalar."""

    def empty(self, shape: tuple[int, ...], dtype: DType) -> DeviceArray:
        """New memory, unwritten: NaN in every float type on the simulator."""

    def upload(self, values: NDArray[Any], dtype: DType) -> DeviceArray:
        """New memory with `values`, converted to `dtype`."""

    def write(self, array: DeviceArray, values: NDArray[Any]) -> None:
        """Overwrites `array` with `values`, converted to its dtype."""

    def download(self, array: DeviceArray) -> NDArray[Any]:
        """A host copy, after all launches so far; bfloat16 comes as float32."""

    def synchronise(self) -> None:
        """Returns when every launch so far has finished."""


def check_argument(index: int, argument: Argument) -> None:
    """Raises TypeError for what would reach a kernel with the wrong width."""
    if argument is None or isinstance(argument, DeviceArray | np.int32 | np.uint32 | np.int64 | np.uint64 | np.float32):
        return
    raise TypeError(
        f"kernel argument {index} is {argument!r} of {type(argument).__name__}: pass a DeviceArray, None or a scalar "
        "with its type (np.int32, np.uint32, np.int64, np.uint64, np.float32)"
    )


def pack(argument: Argument) -> bytes:
    """The argument as a kernel parameter's bytes."""
    if argument is None:
        return bytes(8)
    if isinstance(argument, DeviceArray):
        return argument.pointer.to_bytes(8, "little")
    return argument.tobytes()


def check_array(name: str, array: DeviceArray, shape: tuple[int | None, ...], *dtypes: str) -> None:
    """Checks metadata only, so that no launch waits for the device: None in `shape` accepts any extent.

    Raises:
        UnsupportedError: what was given, and what is supported.
    """
    fits = len(array.shape) == len(shape) and all(
        wanted is None or wanted == given for wanted, given in zip(shape, array.shape, strict=True)
    )
    if not fits:
        wanted_shape = ", ".join("any" if extent is None else str(extent) for extent in shape)
        raise UnsupportedError(f"{name} has shape {array.shape}; ({wanted_shape}) is needed")
    if dtypes and array.dtype not in dtypes:
        raise UnsupportedError(f"{name} is {array.dtype}; supported: {', '.join(dtypes)}")
    if array.pointer % 16:
        raise UnsupportedError(f"{name} starts at address {array.pointer:#x}; kernels need 16-byte alignment")
