"""Launcher of kernels/cuda/add_norm.cu."""

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
    return Instance("add_norm", (dtype, NORM_CODE[norm], folding.threads, folding.fold)), folding


def instances(spec: ModelSpec, dtype: DType, weights: WeightFormat) -> Iterator[Instance]:
    """The sum alone (or the residual as it is, where projections read it unnormalised), and with the model's norm."""
    yield instance(dtype, "none", spec.hidden_size)[0]
    yield instance(dtype, spec.norm, spec.hidden_size)[0]


def add_norm(
    launcher: Launcher,
    residual: DeviceArray,
    x: DeviceArray | None = None,
    *,
    dtype: DType,
    bias: DeviceArray | None = None,
    scale: float = 1.0,
    norm: NormKind = "none",
    norm_weight: DeviceArray | None = None,
    norm_bias: DeviceArray | None = None,
    eps: float = 1e-5,
    out: DeviceArray | None = None,
) -> None:
    """residual += scale * (x + bias), then out = norm(residual): both, or either alone.

    Args:
        residual: (rows, n) float32; updated when `x` is given.
        x: (rows, n) `dtype`, a GEMM's output without its bias.
        dtype: compute dtype: float32, float16 or bfloat16.
        bias: (n,) `dtype`, the GEMM's bias.
        norm: "none" writes the residual itself to `out`, or nothing without `out`.
        norm_weight, norm_bias: (n,) float32.
        out: (rows, n) `dtype`: what the next projection reads.
    """
    rows, n = residual.shape
    kernel, folding = instance(dtype, norm, n)
    check_array("residual", residual, (rows, n), "float32")
    check_norm("add_norm", norm != "none", norm_weight, norm_bias, n)
    if out is None and (x is None or norm != "none"):
        raise ValueError(f"add_norm with norm {norm!r} and {'no ' if x is None else ''}x needs out")
    if x is None and bias is not None:
        raise ValueError("add_norm without x takes no bias")
    if x is not None:
        check_array("x", x, (rows, n), dtype)
    if bias is not None:
        check_array("bias", bias, (n,), dtype)
    if out is not None:
        check_array("out", out, (rows, n), dtype)
    launcher.launch(
        kernel,
        LaunchConfig(folding.threads, (rows, 1, 1), overlaps=True),
        (residual, x, bias, norm_weight, norm_bias, out, np.int32(n), np.float32(scale), np.float32(eps)),
    )
