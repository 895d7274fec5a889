"""Launcher of kernels/cuda/activation.cu."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

import numpy as np

from eet_demo.engine.dtypes import DTYPE_BYTES
from eet_demo.engine.executors.cuda.arrays import DeviceArray, DType
from eet_demo.engine.executors.cuda.compile.launch import Instance, LaunchConfig, Launcher, check_array
from eet_demo.engine.executors.cuda.launchers.folding import Folding, fold_row
from eet_demo.engine.executors.cuda.launchers.matrices import WeightFormat
from eet_demo.engine.spec import Activation, ModelSpec

ACTIVATION_CODE: dict[Activation, int] = {"gelu_tanh": 0, "gelu_erf": 1, "silu": 2, "relu": 3}
"""`enum Activation` of activate.cuh."""


@cache
def instance(dtype: DType, kind: Activation, gated: bool, n: int) -> tuple[Instance, Folding]:
    """The kernel for rows of `n` results in `dtype`, and how blocks cover them."""
    folding = fold_row(n, DTYPE_BYTES[dtype])
    return Instance("activation", (dtype, ACTIVATION_CODE[kind], gated, folding.threads)), folding


def instances(spec: ModelSpec, dtype: DType, weights: WeightFormat) -> Iterator[Instance]:
    """The model's one activation."""
    yield instance(dtype, spec.activation, spec.mlp == "gated", spec.intermediate_size)[0]


def activation(
    launcher: Launcher,
    x: DeviceArray,
    *,
    dtype: DType,
    kind: Activation,
    gated: bool,
    out: DeviceArray,
    bias: DeviceArray | None = None,
) -> DeviceArray:
    """out = act(x + bias), or act(gate) * up with gate and up alternating in x + bias.

    Args:
        x: (rows, n), gated (rows, 2n), `dtype`: a GEMM's output without its bias.
        bias: as wide as x, `dtype`.
        out: (rows, n) `dtype`; written and returned.
    """
    rows, n = out.shape
    kernel, folding = instance(dtype, kind, gated, n)
    width = 2 * n if gated else n
    check_array("x", x, (rows, width), dtype)
    check_array("out", out, (rows, n), dtype)
    if bias is not None:
        check_array("bias", bias, (width,), dtype)
    launcher.launch(
        kernel,
        LaunchConfig(folding.threads, (rows, folding.fold, 1), overlaps=True),
        (x, bias, out, np.int32(n)),
    )
    return out
