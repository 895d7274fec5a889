"""Launcher of kernels/cuda/norm_qkv.cu."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from eet_demo.engine.executors.cuda.arrays import DeviceArray, DType
from eet_demo.engine.executors.cuda.compile.launch import Instance, LaunchConfig, Launcher, check_array
from eet_demo.engine.executors.cuda.launchers.gemv import BATCHES, GemvPlan, holds_rows, plan_gemv
from eet_demo.engine.executors.cuda.launchers.heads import check_cache
from eet_demo.engine.executors.cuda.launchers.matrices import Matrix, WeightFormat, check_matrix
from eet_demo.engine.executors.cuda.launchers.norms import (
    NORM_CODE,
    NormKind,
    NormWeights,
    QkNorm,
    head_norm,
    input_norm,
)
from eet_demo.engine.executors.cuda.launchers.ragged_rows import RaggedRows
from eet_demo.engine.spec import ModelSpec
from eet_demo.errors import UnsupportedError

QK_NORM_REGISTERS = 128
"""What a thread needs at least where it also normalises q and k; `kRoomyBlocks` of gemv.cuh."""


@dataclass(frozen=True)
class QkScratch:
    """What a q/k norm needs beside its weights, as its sums go over more than a block computes.

    Args:
        workspace: (rows, (num_heads + num_kv_heads) * head_dim) float32, overwritten.
        counters: (num_heads + num_kv_heads,) uint32, zero before the first call; every call leaves them zero.
    """

    workspace: DeviceArray
    counters: DeviceArray


def instance(
    heads: tuple[int, int, int],
    k: int,
    rows: int,
    dtype: DType,
    weights: WeightFormat,
    norm: NormKind,
    qk_norm: NormKind = "none",
    whole: bool = False,
    interleaved: bool = False,
) -> tuple[Instance, GemvPlan]:
    """The kernel for `heads` = (num_heads, num_kv_heads, head_dim) and how its blocks cover the projection."""
    num_heads, num_kv_heads, head_dim = heads
    plan = plan_gemv((num_heads + 2 * num_kv_heads) * head_dim, k, rows, dtype, weights)
    if qk_norm != "none":
        plan = replace(plan, registers=tuple(max(n, QK_NORM_REGISTERS) for n in plan.registers))
    arguments = (*plan.arguments, NORM_CODE[norm], holds_rows(plan, k, dtype), NORM_CODE[qk_norm], whole, interleaved)
    return Instance("norm_qkv", arguments), plan


def instances(spec: ModelSpec, dtype: DType, weights: WeightFormat) -> Iterator[Instance]:
    """Every instance the model needs: one for each batch; layers without rotary take the same."""
    heads = (spec.num_heads, spec.num_kv_heads, spec.head_dim)
    qk_norm = head_norm(spec)
    whole, interleaved = spec.qk_norm == "full", spec.rope_pairs == "interleaved"
    for rows in BATCHES:
        norm = input_norm(spec)
        yield instance(heads, spec.hidden_size, rows, dtype, weights, norm, qk_norm, whole, interleaved)[0]


def norm_qkv(
    launcher: Launcher,
    residual: DeviceArray,
    norm: NormWeights,
    weight: Matrix,
    positions: DeviceArray,
    rows: RaggedRows,
    *,
    dtype: DType,
    keys: DeviceArray,
    values: DeviceArray,
    out: DeviceArray,
    bias: DeviceArray | None = None,
    qk_norm: QkNorm | None = None,
    scratch: QkScratch | None = None,
    frequencies: DeviceArray | None = None,
    interleaved: bool = False,
) -> DeviceArray:
    """q, k, v of norm(residual), normalised and rotated; k and v go to their cache slots, q to `out`.

    Args:
        residual: (rows, k) float32, at most 16 rows.
        weight: ((num_heads + 2 num_kv_heads) * head_dim, k) in `dtype` or quantised.
        positions: (rows,) int32.
        keys, values: (max_batch, num_kv_heads, max_context, head_dim) `dtype`; one slot of each head a row is written.
        out: (rows, num_heads * head_dim) `dtype`; written and returned.
        bias: (weight rows,) `dtype`, or None.
        qk_norm, scratch: both or neither.
        frequencies: (rotary_dim / 2,) float32, radians a position; None without rotary.
        interleaved: elements (2i, 2i + 1) turn together, and not (i, i + rotary_dim / 2).
    """
    num_rows, q_size = out.shape
    num_kv_heads, max_context, head_dim = keys.shape[1:]
    num_heads = q_size // head_dim
    rows.check()
    check_cache(keys, values, num_heads, head_dim, dtype)
    check_array("out", out, (num_rows, num_heads * head_dim), dtype)
    check_array("residual", residual, (num_rows, weight.columns), "float32")
    check_array("positions", positions, (num_rows,), "int32")
    if weight.rows != (num_heads + 2 * num_kv_heads) * head_dim:
        raise UnsupportedError(f"{weight.rows} weight rows are not ({num_heads} + 2 * {num_kv_heads}) * {head_dim}")
    kind, whole = (qk_norm.kind, qk_norm.whole) if qk_norm else ("none", False)
    heads = (num_heads, num_kv_heads, head_dim)
    kernel, plan = instance(heads, weight.columns, num_rows, dtype, weight.format, norm.kind, kind, whole, interleaved)
    check_matrix("weight", weight, dtype)
    norm.check("norm_qkv", weight.columns)
    if bias is not None:
        check_array("bias", bias, (weight.rows,), dtype)
    _check_qk_norm(qk_norm, scratch, num_rows, heads)
    launcher.launch(
        kernel,
        LaunchConfig(plan.threads, (plan.blocks(launcher), 1, 1), shared_bytes=plan.shared_bytes, overlaps=True),
        (residual, norm.weight, norm.bias, weight.values, weight.scales, bias,
         qk_norm.q_weight if qk_norm else None, qk_norm.q_bias if qk_norm else None,
         qk_norm.k_weight if qk_norm else None, qk_norm.k_bias if qk_norm else None,
         frequencies, positions, rows.row_starts, rows.cache_rows, rows.cache_starts, out, keys, values,
         scratch.workspace if scratch else None, scratch.counters if scratch else None,
         np.int32(num_rows), np.int32(rows.batch), np.int32(weight.columns), np.int32(num_heads),
         np.int32(num_kv_heads), np.int32(head_dim), np.int32(_rotary_dim(frequencies, head_dim)),
         np.int64(max_context), np.float32(norm.eps), np.float32(qk_norm.eps if qk_norm else 0.0)),
    )  # fmt: skip
    return out


def _rotary_dim(frequencies: DeviceArray | None, head_dim: int) -> int:
    if frequencies is None:
        return 0
    check_array("frequencies", frequencies, (None,), "float32")
    if 2 * frequencies.size > head_dim:
        raise UnsupportedError(f"{frequencies.size} frequencies turn {2 * frequencies.size} elements of {head_dim}")
    return 2 * frequencies.size


def _check_qk_norm(norm: QkNorm | None, scratch: QkScratch | None, rows: int, heads: tuple[int, int, int]) -> None:
    num_heads, num_kv_heads, head_dim = heads
    if (norm is None) != (scratch is None):
        raise ValueError("a q/k norm and its scratch are given together or not at all")
    if norm is None or scratch is None:
        return
    norm.check(*heads)
    check_array("workspace", scratch.workspace, (rows, (num_heads + num_kv_heads) * head_dim), "float32")
    check_array("counters", scratch.counters, (num_heads + num_kv_heads,), "uint32")
