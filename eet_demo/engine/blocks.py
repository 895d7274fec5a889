"""Quantised weights in blocks of 32 values along a row, as GGUF stores them: their sizes, and what they stand for.

A block is a float16 scale (Q4_1: scale, then a float16 minimum), then 32 values: int8 in Q8_0, 4 bits in Q4_0 and Q4_1
with value i in the low half of byte i and value i + 16 in its high half (ggml-common.h, github.com/ggml-org/llama.cpp).
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

WeightFormat = Literal["dense", "q8_0", "q4_0", "q4_1"]
"""How one weight is stored in the engine; `dense` is whatever the engine's dtype is."""

BLOCK_VALUES = 32
BLOCK_BYTES: dict[WeightFormat, int] = {"q8_0": 34, "q4_0": 18, "q4_1": 20}


def row_bytes(format: WeightFormat, columns: int) -> int:
    """Bytes of a row of `columns` values, a multiple of 32."""
    return columns // BLOCK_VALUES * BLOCK_BYTES[format]


_QUANTISED_AT_ONCE = 1 << 11
"""Blocks: 256 KB of values, so that the passes over them run in the second-level cache."""

_HALF = np.nextafter(np.float32(0.5), np.float32(0))
"""Added before the fraction is cut off: rounds halves up and nothing below a half, which 0.5 would by its sum."""


def quantise_q8_0(values: NDArray[np.float32]) -> NDArray[np.uint8]:
    """uint8 `(rows, columns // 32 * 34)`: each block of 32 as llama.cpp's quantize_row_q8_0_ref rounds it.

    The scale is the largest magnitude / 127, rounded to float16 only where it is stored; halves round away from zero.

    Args:
        values: (rows, columns) float32, finite, columns a multiple of 32.
    """
    blocks = np.ascontiguousarray(values).reshape(-1, BLOCK_VALUES)
    out = np.empty((len(blocks), BLOCK_BYTES["q8_0"]), np.uint8)
    with np.errstate(over="ignore"):
        for start in range(0, len(blocks), _QUANTISED_AT_ONCE):
            _quantise_blocks(blocks[start : start + _QUANTISED_AT_ONCE], out[start : start + _QUANTISED_AT_ONCE])
    return out.reshape(len(values), -1)


def _quantise_blocks(blocks: NDArray[np.float32], out: NDArray[np.uint8]) -> None:
    scaled = np.abs(blocks)
    largest = scaled
    while largest.shape[1] > 1:  # by halves: much faster than max over so short an axis
        half = largest.shape[1] // 2
        largest = np.maximum(largest[:, :half], largest[:, half:])
    scale = largest / np.float32(127)
    inverse = np.divide(np.float32(1), scale, out=np.zeros_like(scale), where=scale != 0)
    np.multiply(blocks, inverse, out=scaled)
    scaled += np.copysign(_HALF, scaled)
    out[:, :2] = scale.astype(np.float16).view(np.uint8)
    out[:, 2:].view(np.int8)[...] = scaled.astype(np.int32)


def split_blocks(raw: NDArray[np.uint8], weights: WeightFormat) -> tuple[NDArray[Any], NDArray[np.float16]]:
    """GGUF blocks as two planes: `raw` is `(rows, columns / 32 * BLOCK_BYTES)` uint8. No number changes."""
    rows = raw.shape[0]
    blocks = np.ascontiguousarray(raw).reshape(rows, -1, BLOCK_BYTES[weights])
    header = 4 if weights == "q4_1" else 2
    scales = np.ascontiguousarray(blocks[..., :header]).view(np.float16)
    scales = scales if weights == "q4_1" else scales[..., 0]
    values = np.ascontiguousarray(blocks[..., header:]).reshape(rows, -1)
    return (values.view(np.int8) if weights == "q8_0" else values), np.ascontiguousarray(scales)


def dequantise_planes(values: NDArray[Any], scales: NDArray[np.float16], weights: WeightFormat) -> NDArray[np.float32]:
    """float32 `(rows, columns)` that the planes stand for; the reference's view of a quantised matrix."""
    rows = values.shape[0]
    if weights == "q8_0":
        quants = values.reshape(rows, -1, BLOCK_VALUES).astype(np.float32)
    else:
        bytes_of_block = values.reshape(rows, -1, BLOCK_VALUES // 2)
        quants = np.concatenate([bytes_of_block & 15, bytes_of_block >> 4], axis=-1).astype(np.float32)
    wide = scales.astype(np.float32)
    if weights == "q4_1":
        return (quants * wide[..., :1] + wide[..., 1:]).reshape(rows, -1)
    return ((quants - (8 if weights == "q4_0" else 0)) * wide[..., None]).reshape(rows, -1)


def dequantise(raw: NDArray[np.uint8], format: WeightFormat) -> NDArray[np.float32]:
    """float32 `(rows, columns)` of raw GGUF blocks `(rows, bytes a row)`."""
    return dequantise_planes(*split_blocks(raw, format), format)
