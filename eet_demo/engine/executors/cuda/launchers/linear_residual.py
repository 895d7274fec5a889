"""Launcher of kernels/cuda/linear_residual.cu."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from eet_demo.engine.executors.cuda.arrays import DeviceArray, DType
from eet_demo.engine.executors.cuda.compile.launch import Instance, LaunchConfig, Launcher, check_array
from eet_demo.engine.executors.cuda.launchers.gemv import BATCHES, GemvPlan, plan_gemv
from eet_demo.engine.executors.cuda.launchers.matrices import Matrix, WeightFormat, check_matrix
from eet_demo.engine.spec import ModelSpec


def instance(n: int, k: int, rows: int, dtype: DType, weights: WeightFormat) -> tuple[Instance, GemvPlan]:
    """The kernel for `rows` rows times a weight `(n, k)`, and how its blocks cover it."""
    plan = plan_gemv(n, k, rows, dtype, weights)
    return Instance("linear_residual", plan.arguments), plan


def instances(spec: ModelSpec, dtype: DType, weights: WeightFormat) -> Iterator[Instance]:
    """Every instance the model needs, after attention and after the MLP: one of each for each batch."""
    for rows in BATCHES:
        for columns in (spec.q_size, spec.intermediate_size):
            yield instance(spec.hidden_size, columns, rows, dtype, weights)[0]


def linear_residual(
    launcher: Launcher,
    x: DeviceArray,
    weight: Matrix,
    *,
    dtype: DType,
    bias: DeviceArray | None = None,
    residual: DeviceArray | None = None,
    product: DeviceArray | None = None,
    scale: float = 1.0,
) -> None:
    """residual += scale * (x W^T + b), or product = scale * (x W^T + b): exactly one of the two is given.

    Args:
        x: (rows, k) `dtype`, at most 16 rows.
        weight: (n, k) in `dtype` or quantised.
        bias: (n,) `dtype`, or None.
        residual: (rows, n) float32, read and written.
        product: (rows, n) `dtype`, written.
    """
    if (residual is None) == (product is None):
        raise ValueError("linear_residual writes either the residual or the product: give one of them")
    check_array("x", x, (None, weight.columns), dtype)
    rows, n = x.shape[0], weight.rows
    kernel, plan = instance(n, weight.columns, rows, dtype, weight.format)
    check_matrix("weight", weight, dtype)
    if bias is not None:
        check_array("bias", bias, (n,), dtype)
    if residual is not None:
        check_array("residual", residual, (rows, n), "float32")
    if product is not None:
        check_array("product", product, (rows, n), dtype)
    launcher.launch(
        kernel,
        LaunchConfig(plan.threads, (plan.blocks(launcher), 1, 1), shared_bytes=plan.shared_bytes, overlaps=True),
        (x, weight.values, weight.scales, bias, residual, product,
         np.int32(rows), np.int32(n), np.int32(weight.columns), np.float32(scale)),
    )  # fmt: skip
