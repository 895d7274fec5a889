"""Launcher of kernels/cuda/norm_add.cu."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

import numpy as np

from eet_demo.engine.dtypes import DTYPE_BYTES
from eet_demo.engine.executors.cuda.arrays import DeviceArray, DType
from eet_demo.engine.executors.cuda.compile.launch import Instance, LaunchConfig, Launcher, check_array
from eet_demo.engine.executors.cuda.launchers.folding import Folding, fold_row
from eet_demo.engine.executors.cuda.launchers.matrices import WeightFormat
from eet_demo.engine.executors.cuda.launchers.norms import NORM_CODE, NormKind, NormWeights
from eet_demo.engine.spec import ModelSpec


@cache
def instance(dtype: DType, norm: NormKind, n: int) -> tuple[Instance, Folding]:
    """The kernel for rows of `n` values in `dtype`, and how a block covers them."""
    folding = fold_row(n, DTYPE_BYTES[dtype])
    return Instance("norm_add", (dtype, NORM_CODE[norm], folding.threads, folding.fold)), folding


def instances(spec: ModelSpec, dtype: DType, weights: WeightFormat) -> Iterator[Instance]:
    """The instance of a family that normalises a block's output, whatever the weights are held in."""
    if spec.norm_placement != "pre":
        yield instance(dtype, spec.norm, spec.hidden_size)[0]


def norm_add(
    launcher: Launcher,
    x: DeviceArray,
    norm: NormWeights,
    *,
    dtype: DType,
    residual: DeviceArray,
    scale: float = 1.0,
) -> None:
    """residual += scale * norm(x).

    Args:
        x: (rows, n) `dtype`, any number of rows.
        residual: (rows, n) float32, read and written.
    """
    rows, n = residual.shape
    kernel, folding = instance(dtype, norm.kind, n)
    check_array("x", x, (rows, n), dtype)
    check_array("residual", residual, (rows, n), "float32")
    norm.check("norm_add", n)
    launcher.launch(
        kernel,
        LaunchConfig(folding.threads, (rows, 1, 1), overlaps=True),
        (residual, x, norm.weight, norm.bias, np.int32(n), np.float32(scale), np.float32(norm.eps)),
    )
