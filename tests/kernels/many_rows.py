"""Ragged rows of several sequences and a cache full of noise, for the kernels that take them."""

from __future__ import annotations

import mmap
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from eet_demo.engine.executors.cuda.arrays import DeviceArray, DType
from eet_demo.engine.executors.cuda.compile.launch import Launcher
from eet_demo.engine.executors.cuda.launchers.ragged_rows import RaggedRows
from tests.kernels.harness import rounded


@dataclass(frozen=True)
class Ragged:
    """Sequences of a step: how many rows each has, where its slots begin, and which cache row is its own."""

    lengths: tuple[int, ...]
    starts: tuple[int, ...]
    cache_rows: tuple[int, ...]

    @property
    def rows(self) -> int:
        return sum(self.lengths)

    @property
    def row_starts(self) -> NDArray[np.int32]:
        return np.cumsum([0, *self.lengths]).astype(np.int32)

    @property
    def positions(self) -> NDArray[np.int32]:
        runs = [np.arange(start, start + length) for start, length in zip(self.starts, self.lengths, strict=True)]
        return np.concatenate(runs).astype(np.int32)

    @property
    def arrays(self) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.int32]]:
        return self.row_starts, np.array(self.cache_rows, np.int32), np.array(self.starts, np.int32)

    def upload(self, device: Launcher) -> RaggedRows:
        return RaggedRows(*(device.upload(array, "int32") for array in self.arrays))


def noise(random: np.random.Generator, shape: tuple[int, ...], dtype: DType) -> NDArray[np.float32]:
    """What a cache must not be read at: large numbers, every third one NaN."""
    values = rounded(1000 * random.standard_normal(shape), dtype)
    values.reshape(-1)[::3] = np.nan
    return values


def reserve(shape: tuple[int, ...]) -> tuple[DeviceArray, NDArray[np.float16]]:
    """Zeros of more bytes than there may be: memory backs only what is touched."""
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x4000  # MAP_NORESERVE, which the module names from 3.13 on
    memory = np.frombuffer(mmap.mmap(-1, int(np.prod(shape)) * 2, flags=flags), np.float16)
    return DeviceArray(memory.ctypes.data, shape, "float16", memory), memory.reshape(shape)
