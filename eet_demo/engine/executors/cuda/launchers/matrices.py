"""Weight matrices as kernels read them: dense, or 32-value blocks split into planes of values and scales."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eet_demo.engine.blocks import BLOCK_BYTES, BLOCK_VALUES, WeightFormat, dequantise_planes, split_blocks
from eet_demo.engine.executors.cuda.arrays import DeviceArray, DType
from eet_demo.engine.executors.cuda.compile.launch import Launcher, check_array
from eet_demo.errors import UnsupportedError

__all__ = [
    "BLOCK_BYTES",
    "BLOCK_VALUES",
    "FORMAT_CODE",
    "Matrix",
    "WeightFormat",
    "check_matrix",
    "dequantise_planes",
    "split_blocks",
    "upload_blocks",
    "upload_dense",
]

FORMAT_CODE: dict[WeightFormat, int] = {"dense": 0, "q8_0": 1, "q4_0": 2, "q4_1": 3}
"""`enum WeightFormat` of common.cuh."""


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


def upload_dense(launcher: Launcher, values: NDArray[Any], dtype: DType) -> Matrix:
    rows, columns = values.shape
    return Matrix("dense", rows, columns, launcher.upload(values, dtype))


def upload_blocks(launcher: Launcher, raw: NDArray[np.uint8], weights: WeightFormat) -> Matrix:
    """A GGUF tensor's raw blocks, `(rows, bytes a row)` uint8, on the device."""
    values, scales = split_blocks(raw, weights)
    columns = scales.shape[1] * BLOCK_VALUES
    values_plane = launcher.upload(values, "int8" if weights == "q8_0" else "uint8")
    return Matrix(weights, raw.shape[0], columns, values_plane, launcher.upload(scales, "float16"))
