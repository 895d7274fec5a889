"""The arena on a device: one torch tensor, carved by the plan into arrays for kernels and tensors for GEMMs."""

from __future__ import annotations

from typing import Any

import torch

from eet_demo.engine.executors.cuda.arrays import DeviceArray, DType
from eet_demo.engine.executors.cuda.runtime.layout import Fields, Shape, aligned, nbytes
from eet_demo.engine.plan import Plan

TORCH_DTYPE: dict[str, torch.dtype] = {
    "float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16, "int8": torch.int8,
    "uint8": torch.uint8, "int32": torch.int32, "uint32": torch.int32,
}  # fmt: skip

GUARD = 0xA5
POISON = 0xFF
"""NaN in every float type."""


class Arena:
    """`memory` is uint8 (plan.arena_bytes,) on the device; its address never changes, so graphs may hold it."""

    def __init__(self, plan: Plan, memory: torch.Tensor, state: Fields, debug: bool = False) -> None:
        self._plan, self.memory, self._base = plan, memory, memory.data_ptr()
        if debug:
            memory.fill_(POISON)
            for start, end in plan.gaps():
                memory[start:end] = GUARD
        self.state = self.fields("state", state)
        for array in self.state.values():
            self.tensor(array).view(torch.uint8).zero_()

    def array(self, name: str, shape: Shape, dtype: DType, offset_bytes: int = 0) -> DeviceArray:
        """The leading elements of the block `name`, from `offset_bytes` on. Raises ValueError past its end."""
        block = self._plan.blocks[name]
        array = DeviceArray(self._base + block.offset + offset_bytes, shape, dtype, self.memory)
        if offset_bytes + array.nbytes > block.size:
            raise ValueError(f"{array.nbytes} bytes at {offset_bytes} of {name}, which has {block.size}")
        return array

    def fields(self, name: str, entries: Fields) -> dict[str, DeviceArray]:
        """The block `name` cut into `entries`, one after the other."""
        arrays, offset = {}, 0
        for field, (shape, dtype) in entries.items():
            arrays[field] = self.array(name, shape, dtype, offset)
            offset += aligned(nbytes((shape, dtype)))
        return arrays

    def tensor(self, array: DeviceArray) -> Any:
        """The same memory as a torch tensor."""
        offset = array.pointer - self._base
        return self.memory[offset : offset + array.nbytes].view(TORCH_DTYPE[array.dtype]).view(array.shape)

    def check_guards(self) -> None:
        """Raises AssertionError naming the block after which a guard byte was overwritten (debug only)."""
        for start, end in self._plan.gaps():
            if not bool((self.memory[start:end] == GUARD).all()):
                raise AssertionError(f"a write ran past the end of {self._plan.block_before(start)}")
