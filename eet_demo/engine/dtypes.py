"""What is computed and stored in: names of dtypes, their bytes, and bfloat16, which NumPy has not."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from eet_demo.errors import UnsupportedError

Real = Literal["float32", "float16", "bfloat16"]
"""What an executor computes in, or stores dense matrices in; the reference has float32 and float64."""

REALS: tuple[Real, ...] = ("float32", "float16", "bfloat16")

DTYPE_BYTES: dict[str, int] = {
    "float64": 8, "float32": 4, "float16": 2, "bfloat16": 2, "int8": 1, "uint8": 1, "int32": 4, "uint32": 4, "int64": 8,
    "uint64": 8,
}  # fmt: skip
"""Bytes of one element."""


def real(dtype: str) -> Real:
    """The dtype by its name. Raises UnsupportedError for any other."""
    for known in REALS:
        if dtype == known:
            return known
    raise UnsupportedError(f"dtype {dtype!r} is not supported; supported: {', '.join(REALS)}")


def to_bfloat16(values: NDArray[Any]) -> NDArray[np.uint16]:
    """The bits of `values` in bfloat16, to nearest, ties to even; infinities stay, every NaN becomes the same one."""
    floats = np.ascontiguousarray(values, np.float32)
    bits = floats.view(np.uint32)
    rounded = ((bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)).astype(np.uint16)
    rounded[np.isnan(floats)] = 0x7FC0
    return rounded


def from_bfloat16(bits: NDArray[np.uint16]) -> NDArray[np.float32]:
    """float32 of the same values, exactly."""
    return (bits.astype(np.uint32) << np.uint32(16)).view(np.float32)
