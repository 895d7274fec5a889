"""Device memory as metadata: an address, a shape and a dtype. Nothing here touches the memory itself."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from eet_demo.engine.dtypes import DTYPE_BYTES, Real, from_bfloat16, to_bfloat16

DType = Real | Literal["int8", "uint8", "int32", "uint32", "int64", "uint64"]

CPP_NAME: dict[str, str] = {"float32": "float", "float16": "half", "bfloat16": "bfloat16"}
"""How a template argument names a dtype."""


@dataclass(frozen=True)
class DeviceArray:
    """A C-contiguous array in the memory a launcher works on; `owner` keeps that memory alive."""

    pointer: int
    shape: tuple[int, ...]
    dtype: DType
    owner: Any = field(default=None, repr=False, compare=False)

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @property
    def itemsize(self) -> int:
        return DTYPE_BYTES[self.dtype]

    @property
    def nbytes(self) -> int:
        return self.size * self.itemsize

    def __getitem__(self, index: int | slice) -> DeviceArray:
        """Entry or entries of the leading dimension, without a copy; a slice's step is 1."""
        stride = math.prod(self.shape[1:]) * self.itemsize
        if isinstance(index, slice):
            start, stop, step = index.indices(self.shape[0])
            if step != 1:
                raise IndexError(f"a device array is contiguous: slice step {step} is not possible")
            shape = (max(0, stop - start), *self.shape[1:])
        else:
            start = index + self.shape[0] if index < 0 else index
            if not 0 <= start < self.shape[0]:
                raise IndexError(f"index {index} of a leading dimension of {self.shape[0]}")
            shape = self.shape[1:]
        return DeviceArray(self.pointer + start * stride, shape, self.dtype, self.owner)

    def view(self, shape: tuple[int, ...], dtype: DType | None = None, offset_bytes: int = 0) -> DeviceArray:
        """The same memory from `offset_bytes` on as another shape and dtype; raises ValueError past the end."""
        array = DeviceArray(self.pointer + offset_bytes, shape, dtype or self.dtype, self.owner)
        if offset_bytes < 0 or offset_bytes + array.nbytes > self.nbytes or array.pointer % array.itemsize:
            raise ValueError(f"{array.nbytes} bytes at offset {offset_bytes} do not fit into {self}, aligned")
        return array


def to_host(values: NDArray[Any], dtype: DType) -> NDArray[Any]:
    """`values` as the bytes of `dtype`: bfloat16 (rounded to nearest even) becomes uint16."""
    if dtype != "bfloat16":
        return np.ascontiguousarray(values, dtype=dtype)
    return to_bfloat16(values)


def from_host(raw: NDArray[Any], dtype: DType) -> NDArray[Any]:
    """The inverse of `to_host`; bfloat16 comes back as float32, exactly."""
    if dtype != "bfloat16":
        return raw
    return from_bfloat16(raw)
