"""One block of host memory, carved by the plan; the arena of the executors that run on the CPU."""

from __future__ import annotations

import contextlib
import mmap
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from eet_demo.engine.plan import Plan

GUARD = 0xA5
"""Byte written between blocks in debug mode; any other value there is an overrun."""


class HostArena:
    """An anonymous mapping of exactly `plan.arena_bytes`, page-aligned, zeroed by the kernel."""

    def __init__(self, plan: Plan, debug: bool = False) -> None:
        self._plan = plan
        # Private: shared memory, Python's default, gets no huge pages, and then address translation costs time.
        self._map = mmap.mmap(-1, max(1, plan.arena_bytes), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        if hasattr(mmap, "MADV_HUGEPAGE"):
            self._map.madvise(mmap.MADV_HUGEPAGE)
        self.bytes: NDArray[np.uint8] = np.frombuffer(self._map, np.uint8)
        if debug:
            self._poison()

    def view(self, name: str, dtype: DTypeLike, shape: tuple[int, ...] | None = None) -> NDArray[Any]:
        """The block `name` as an array; the whole block when no shape is given, else its leading elements."""
        block = self._plan.blocks[name]
        flat = self.bytes[block.offset : block.end].view(dtype)
        return flat if shape is None else flat[: int(np.prod(shape))].reshape(shape)

    def check_guards(self) -> None:
        """Raises AssertionError naming the block after which a guard byte was overwritten (debug plans only)."""
        for start, end in self._plan.gaps():
            if not (self.bytes[start:end] == GUARD).all():
                raise AssertionError(f"a write ran past the end of {self._plan.block_before(start)}")

    def close(self) -> None:
        """Gives the memory back as soon as no view is left."""
        self.bytes = np.empty(0, np.uint8)
        with contextlib.suppress(BufferError):  # a caller still holds a view; the mapping goes with the last of them
            self._map.close()

    def _poison(self) -> None:
        """0xFF everywhere (NaN in every float type), guards between the blocks: a read of unwritten memory is loud."""
        self.bytes[:] = 0xFF
        for start, end in self._plan.gaps():
            self.bytes[start:end] = GUARD
