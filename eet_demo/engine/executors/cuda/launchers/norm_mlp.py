"""Launcher of kernels/cuda/norm_mlp.cu."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from eet_demo.engine.executors.cuda.arrays import DeviceArray, DType
from eet_demo.engine.executors.cuda.compile.launch import Instance, LaunchConfig, Launcher, check_array
from eet_demo.engine.executors.cuda.launchers.activation import ACTIVATION_CODE
from eet_demo.engine.executors.cuda.launchers.gemv import BATCHES, GemvPlan, holds_rows, plan_gemv
from eet_demo.engine.executors.cuda.launchers.matrices import Matrix, WeightFormat, check_matrix
from eet_demo.engine.executors.cuda.launchers.norms import NORM_CODE, NormKind, NormWeights, input_norm
from eet_demo.engine.spec import Activation, ModelSpec


def instance(
    n: int, k: int, rows: int, dtype: DType, weights: WeightFormat, norm: NormKind, activation: Activation, gated: bool
) -> tuple[Instance, GemvPlan]:
    """The kernel for `rows` rows times a weight `(n, k)`, and how its blocks cover it."""
    plan = plan_gemv(n, k, rows, dtype, weights)
    return Instance(
        "norm_mlp", (*plan.arguments, NORM_CODE[norm], holds_rows(plan, k, dtype), ACTIVATION_CODE[activation], gated)
    ), plan


def instances(spec: ModelSpec, dtype: DType, weights: WeightFormat) -> Iterator[Instance]:
    """Every instance the model needs: one for each batch."""
    gated = spec.mlp == "gated"
    n, norm = spec.intermediate_size * (2 if gated else 1), input_norm(spec)
    for rows in BATCHES:
        yield instance(n, spec.hidden_size, rows, dtype, weights, norm, spec.activation, gated)[0]


def norm_mlp(
    launcher: Launcher,
    residual: DeviceArray,
    norm: NormWeights,
    weight: Matrix,
    *,
    dtype: DType,
    activation: Activation,
    gated: bool,
    out: DeviceArray,
    bias: DeviceArray | None = None,
) -> DeviceArray:
    """out = act(y), or act(gate) * up where gate and up rows of y = norm(residual) W^T + b alternate.

    Args:
        residual: (rows, k) float32, at most 16 rows.
        weight: (n, k) in `dtype` or quantised; gated: row 2i is gate i, row 2i + 1 is up i.
        bias: (n,) `dtype`, or None.
        out: (rows, n), gated (rows, n / 2), `dtype`; written and returned.
    """
    check_array("residual", residual, (None, weight.columns), "float32")
    rows, n = residual.shape[0], weight.rows
    kernel, plan = instance(n, weight.columns, rows, dtype, weight.format, norm.kind, activation, gated)
    check_matrix("weight", weight, dtype)
    norm.check("norm_mlp", weight.columns)
    if gated and n % 2:
        raise ValueError(f"a gated weight has a gate and an up row for each value, so not {n} rows")
    if bias is not None:
        check_array("bias", bias, (n,), dtype)
    check_array("out", out, (rows, n // 2 if gated else n), dtype)
    launcher.launch(
        kernel,
        LaunchConfig(plan.threads, (plan.blocks(launcher), 1, 1), shared_bytes=plan.shared_bytes, overlaps=True),
        (residual, norm.weight, norm.bias, weight.values, weight.scales, bias, out,
         np.int32(rows), np.int32(n), np.int32(weight.columns), np.float32(norm.eps)),
    )  # fmt: skip
    return out
