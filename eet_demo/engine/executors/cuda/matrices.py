"""Weight matrices as kernels read them: dense, or 32-value blocks split into planes of values and scales."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from eet_demo.engine.executors.cuda.arrays import DeviceArray
from eet_demo.engine.executors.cuda.launch import Launcher, check_array
from eet_demo.errors import UnsupportedError

WeightFormat = Literal["dense", "q8_0", "q4_0", "q4_1"]
FORMAT_CODE: dict[WeightFormat, int] = {"dense": 0, "q8_0": 1, "q4_0": 2, "q4_1": 3}
"""`enum WeightFormat` of common.cuh."""

BLOCK_VALUES = 32
BLOCK_BYTES: dict[WeightFormat, int] = {"q8_0": 34, "q4_0": 18, "q4_1": 20}
"""A GGUF block: float16 scale (and, in Q4_1, float16 minimum), then the values (ggml-common.h)."""


@dataclass(frozen=True)
class Matrix:
    """A weight `(rows, columns)` on the device.

    Args:
        values: dense `(rows, columns)` dtype; q8_0 `(rows, columns)` int8; q4_0 and q4_1 `(rows, columns / 2)` uint8.
        scales: None for dense; `(rows, columns / 32)` float16; q4_1 `(rows, columns / 32, 2)` scale and minimum.
    """

    format: WeightFormat
    rows: int
    columns: int
    values: DeviceArray
    scales: DeviceArray | None = None


def check_matrix(name: str, matrix: Matrix, dtype: str) -> None:
    """Raises UnsupportedError when the planes are not what the format says."""
    rows, columns = matrix.rows, matrix.columns
    if matrix.format == "dense":
        check_array(name, matrix.values, (rows, columns), dtype)
        return
    if columns % BLOCK_VALUES or matrix.scales is None:
        raise UnsupportedError(
            f"{name}: {matrix.format} needs scales and a multiple of {BLOCK_VALUES} columns, not {columns}"
        )
    blocks = columns // BLOCK_VALUES
    check_array(
        f"{name} scales", matrix.scales, (rows, blocks, 2) if matrix.format == "q4_1" else (rows, blocks), "float16"
    )
    if matrix.format == "q8_0":
        check_array(name, matrix.values, (rows, columns), "int8")
    else:
        check_array(name, matrix.values, (rows, columns // 2), "uint8")


def split_blocks(raw: NDArray[np.uint8], weights: WeightFormat) -> tuple[NDArray[Any], NDArray[np.float16]]:
    """GGUF blocks as the two planes: `raw` is `(rows, columns / 32 * BLOCK_BYTES)` uint8. No number changes."""
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


def upload_dense(launcher: Launcher, values: NDArray[Any], dtype: Literal["float32", "float16", "bfloat16"]) -> Matrix:
    rows, columns = values.shape
    return Matrix("dense", rows, columns, launcher.upload(values, dtype))


def upload_blocks(launcher: Launcher, raw: NDArray[np.uint8], weights: WeightFormat) -> Matrix:
    """A GGUF tensor's raw blocks, `(rows, bytes a row)` uint8, on the device."""
    values, scales = split_blocks(raw, weights)
    columns = scales.shape[1] * BLOCK_VALUES
    values_plane = launcher.upload(values, "int8" if weights == "q8_0" else "uint8")
    return Matrix(weights, raw.shape[0], columns, values_plane, launcher.upload(scales, "float16"))
