"""Launcher of kernels/cuda/norm_lm_head.cu."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from eet_demo.engine.executors.cuda.arrays import DeviceArray, DType
from eet_demo.engine.executors.cuda.compile.launch import Instance, LaunchConfig, Launcher, check_array
from eet_demo.engine.executors.cuda.launchers.gemv import BATCHES, GemvPlan, holds_rows, plan_gemv
from eet_demo.engine.executors.cuda.launchers.matrices import Matrix, WeightFormat, check_matrix
from eet_demo.engine.executors.cuda.launchers.norms import NORM_CODE, NormKind, NormWeights
from eet_demo.engine.spec import ModelSpec


@dataclass(frozen=True)
class Candidates:
    """Each block's best token, ties to the lower id. Blocks cover the vocabulary in order, in equal shares.

    There are `plan.blocks(launcher)` of them, with the plan of `instance(...)` for the same vocabulary, hidden size,
    rows, dtype and format.

    Args:
        best_logits: (rows, blocks) float32.
        best_ids: (rows, blocks) int32.
    """

    best_logits: DeviceArray
    best_ids: DeviceArray


def instance(
    vocab: int, k: int, rows: int, dtype: DType, weights: WeightFormat, norm: NormKind
) -> tuple[Instance, GemvPlan]:
    """The kernel for `rows` wanted rows; the plan's `blocks` are the candidates."""
    plan = plan_gemv(vocab, k, rows, dtype, weights)
    return Instance("norm_lm_head", (*plan.arguments, NORM_CODE[norm], holds_rows(plan, k, dtype))), plan


def instances(spec: ModelSpec, dtype: DType, weights: WeightFormat) -> Iterator[Instance]:
    """Every instance the model needs: one for each batch."""
    for rows in BATCHES:
        yield instance(spec.vocab_size, spec.hidden_size, rows, dtype, weights, spec.norm)[0]


def norm_lm_head(
    launcher: Launcher,
    residual: DeviceArray,
    wanted: DeviceArray,
    norm: NormWeights,
    weight: Matrix,
    *,
    dtype: DType,
    logits: DeviceArray | None = None,
    candidates: Candidates | None = None,
    bias: DeviceArray | None = None,
    scale: float = 1.0,
    soft_cap: float | None = None,
) -> None:
    """logits = soft_cap(scale * (norm(residual[wanted]) W^T + b)), and the candidates among them.

    Args:
        residual: (any, k) float32.
        wanted: (rows,) int32, at most 16 rows of the residual; checked by the caller, on the host.
        weight: (vocab, k) in `dtype` or quantised.
        logits: (rows, vocab) float32, written; None where the candidates are enough.
        bias: (vocab,) `dtype`, or None.
        soft_cap: c maps a logit z to c * tanh(z / c).
    """
    if logits is None and candidates is None:
        raise ValueError("norm_lm_head writes logits, candidates or both: give at least one of them")
    if soft_cap is not None and not soft_cap > 0:
        raise ValueError(f"soft_cap {soft_cap} is not positive; None is no cap")
    check_array("residual", residual, (None, weight.columns), "float32")
    check_array("wanted", wanted, (None,), "int32")
    rows, vocab = wanted.shape[0], weight.rows
    kernel, plan = instance(vocab, weight.columns, rows, dtype, weight.format, norm.kind)
    blocks = plan.blocks(launcher)
    check_matrix("weight", weight, dtype)
    norm.check("norm_lm_head", weight.columns)
    if bias is not None:
        check_array("bias", bias, (vocab,), dtype)
    if logits is not None:
        check_array("logits", logits, (rows, vocab), "float32")
    if candidates is not None:
        check_array("best_logits", candidates.best_logits, (rows, blocks), "float32")
        check_array("best_ids", candidates.best_ids, (rows, blocks), "int32")
    launcher.launch(
        kernel,
        LaunchConfig(plan.threads, (blocks, 1, 1), shared_bytes=plan.shared_bytes, overlaps=True),
        (residual, wanted, norm.weight, norm.bias, weight.values, weight.scales, bias, logits,
         candidates.best_logits if candidates else None, candidates.best_ids if candidates else None,
         np.int32(rows), np.int32(vocab), np.int32(weight.columns),
         np.float32(scale), np.float32(soft_cap or 0.0), np.float32(norm.eps)),
    )  # fmt: skip
