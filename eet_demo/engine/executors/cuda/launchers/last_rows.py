"""Launcher of kernels/cuda/last_rows.cu."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

import numpy as np

from eet_demo.engine.dtypes import DTYPE_BYTES
from eet_demo.engine.executors.cuda.arrays import DeviceArray, DType
from eet_demo.engine.executors.cuda.compile.launch import Instance, LaunchConfig, Launcher, check_array
from eet_demo.engine.executors.cuda.launchers.folding import Folding, fold_row
from eet_demo.engine.executors.cuda.launchers.matrices import WeightFormat
from eet_demo.engine.executors.cuda.launchers.norms import NORM_CODE, NormKind, check_norm
from eet_demo.engine.spec import ModelSpec


@cache
def instance(dtype: DType, norm: NormKind, n: int) -> tuple[Instance, Folding]:
    """The kernel for rows of `n` values in `dtype`, and how a block covers them."""
    folding = fold_row(n, DTYPE_BYTES[dtype])
    return Instance("last_rows", (dtype, NORM_CODE[norm], folding.threads, folding.fold)), folding


def instances(spec: ModelSpec, dtype: DType, weights: WeightFormat) -> Iterator[Instance]:
    """The final norm."""
    yield instance(dtype, spec.norm, spec.hidden_size)[0]


def last_rows(
    launcher: Launcher,
    residual: DeviceArray,
    wanted: DeviceArray,
    *,
    dtype: DType,
    out: DeviceArray,
    norm: NormKind,
    norm_weight: DeviceArray | None = None,
    norm_bias: DeviceArray | None = None,
    eps: float = 1e-5,
) -> DeviceArray:
    """out[i] = norm(residual[wanted[i]]).

    Args:
        residual: (rows, n) float32.
        wanted: (wanted,) int32, at least one, each below `rows`; checked by the caller, on the host.
        dtype: compute dtype: float32, float16 or bfloat16.
        out: (wanted, n) `dtype`; written and returned.
        norm_weight, norm_bias: (n,) float32.
    """
    n = residual.shape[1]
    kernel, folding = instance(dtype, norm, n)
    check_array("residual", residual, (None, n), "float32")
    check_array("wanted", wanted, (None,), "int32")
    check_array("out", out, (wanted.size, n), dtype)
    check_norm("last_rows", norm != "none", norm_weight, norm_bias, n)
    launcher.launch(
        kernel,
        LaunchConfig(folding.threads, (wanted.size, 1, 1), overlaps=True),
        (residual, wanted, norm_weight, norm_bias, out, np.int32(n), np.float32(eps)),
    )
    return out
