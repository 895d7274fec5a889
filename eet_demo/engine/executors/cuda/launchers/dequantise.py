"""Launcher of kernels/cuda/dequantise.cu."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

import numpy as np

from eet_demo.engine.executors.cuda.arrays import DeviceArray, DType
from eet_demo.engine.executors.cuda.compile.launch import Instance, LaunchConfig, Launcher, check_array
from eet_demo.engine.executors.cuda.launchers.matrices import FORMAT_CODE, Matrix, WeightFormat, check_matrix
from eet_demo.engine.spec import ModelSpec
from eet_demo.errors import UnsupportedError
from eet_demo.sizes import ceil_div

THREADS = 256
VALUES_A_THREAD = 8


@cache
def instance(dtype: DType, weights: WeightFormat) -> Instance:
    """The kernel that brings `weights` to `dtype`."""
    if weights == "dense":
        raise UnsupportedError("dequantise takes q8_0, q4_0 and q4_1; a dense weight goes into the GEMM as it is")
    return Instance("dequantise", (dtype, FORMAT_CODE[weights], THREADS))


def instances(spec: ModelSpec, dtype: DType, weights: WeightFormat) -> Iterator[Instance]:
    """One for quantised weights; dense ones go into the GEMM as they are."""
    if weights != "dense":
        yield instance(dtype, weights)


def dequantise(launcher: Launcher, matrix: Matrix, first_row: int, *, dtype: DType, out: DeviceArray) -> DeviceArray:
    """out[i] = row first_row + i of the weight.

    Args:
        matrix: (N, columns), quantised.
        dtype: float32, float16 or bfloat16.
        out: (rows, columns) `dtype`: as many rows as it has are written; written and returned.

    Raises:
        UnsupportedError: a dense weight, rows past the weight's end, or a tile of 2^31 values.
    """
    kernel = instance(dtype, matrix.format)
    check_matrix("matrix", matrix, dtype)
    check_array("out", out, (None, matrix.columns), dtype)
    if first_row < 0 or first_row + out.shape[0] > matrix.rows or out.size >= 2**31:
        raise UnsupportedError(
            f"a tile of {out.shape[0]} rows from row {first_row} of a weight of {matrix.rows} x {matrix.columns}: it "
            "must lie inside and hold fewer than 2^31 values"
        )
    blocks = ceil_div(out.size, THREADS * VALUES_A_THREAD)
    launcher.launch(
        kernel,
        LaunchConfig(THREADS, (blocks, 1, 1), overlaps=True),
        (matrix.values, matrix.scales, out, np.int32(first_row), np.int32(out.size), np.int32(matrix.columns)),
    )
    return out
