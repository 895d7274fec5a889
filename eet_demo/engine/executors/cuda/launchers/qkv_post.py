"""Launcher of kernels/cuda/qkv_post.cu."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

import numpy as np

from eet_demo.engine.executors.cuda.arrays import DeviceArray, DType
from eet_demo.engine.executors.cuda.compile.launch import Instance, LaunchConfig, Launcher, check_array
from eet_demo.engine.executors.cuda.launchers.heads import check_cache
from eet_demo.engine.executors.cuda.launchers.matrices import WeightFormat
from eet_demo.engine.executors.cuda.launchers.norms import NORM_CODE, NormKind, QkNorm, head_norm
from eet_demo.engine.executors.cuda.launchers.ragged_rows import RaggedRows
from eet_demo.engine.spec import ModelSpec
from eet_demo.errors import UnsupportedError

THREADS = 128


@cache
def instance(dtype: DType, norm: NormKind = "none", whole: bool = False, interleaved: bool = False) -> Instance:
    """The kernel for any head_dim, any number of heads and any rotary_dim."""
    return Instance("qkv_post", (dtype, NORM_CODE[norm], whole, interleaved, THREADS))


def instances(spec: ModelSpec, dtype: DType, weights: WeightFormat) -> Iterator[Instance]:
    """The model's q/k norm and pairing."""
    yield instance(dtype, head_norm(spec), spec.qk_norm == "full", spec.rope_pairs == "interleaved")


def qkv_post(
    launcher: Launcher,
    qkv: DeviceArray,
    positions: DeviceArray,
    rows: RaggedRows,
    *,
    dtype: DType,
    keys: DeviceArray,
    values: DeviceArray,
    out: DeviceArray,
    bias: DeviceArray | None = None,
    norm: QkNorm | None = None,
    frequencies: DeviceArray | None = None,
    interleaved: bool = False,
) -> DeviceArray:
    """Bias, q/k norm and rotary; k and v go to their cache slots, q to `out`.

    Args:
        qkv: (rows, (num_heads + 2 * num_kv_heads) * head_dim) `dtype`: a GEMM's output without its bias.
        positions: (rows,) int32.
        keys, values: (max_batch, num_kv_heads, max_context, head_dim) `dtype`; one slot of each head a row is written.
        out: (rows, num_heads * head_dim) `dtype`; written and returned.
        bias: as wide as qkv, `dtype`.
        frequencies: (rotary_dim / 2,) float32, radians a position; None without rotary.
        interleaved: elements (2i, 2i + 1) turn together, and not (i, i + rotary_dim / 2).
    """
    num_rows, q_size = out.shape
    num_kv_heads, max_context, head_dim = keys.shape[1:]
    num_heads = q_size // head_dim
    width = (num_heads + 2 * num_kv_heads) * head_dim
    rows.check()
    check_cache(keys, values, num_heads, head_dim, dtype)
    check_array("qkv", qkv, (num_rows, width), dtype)
    check_array("positions", positions, (num_rows,), "int32")
    check_array("out", out, (num_rows, num_heads * head_dim), dtype)
    if bias is not None:
        check_array("bias", bias, (width,), dtype)
    rotary_dim = 0
    if frequencies is not None:
        check_array("frequencies", frequencies, (None,), "float32")
        rotary_dim = 2 * frequencies.size
        if rotary_dim > head_dim:
            raise UnsupportedError(f"{frequencies.size} frequencies turn {rotary_dim} elements of {head_dim}")
    if norm is not None:
        norm.check(num_heads, num_kv_heads, head_dim)
    vectors = (norm.q_weight, norm.q_bias, norm.k_weight, norm.k_bias) if norm else (None,) * 4
    launcher.launch(
        instance(dtype, norm.kind if norm else "none", norm is not None and norm.whole, interleaved),
        LaunchConfig(THREADS, (num_rows, 1, 1), overlaps=True),
        (qkv, bias, *vectors, frequencies, positions, rows.row_starts, rows.cache_rows, rows.cache_starts,
         out, keys, values,
         np.int32(rows.batch), np.int32(num_heads), np.int32(num_kv_heads), np.int32(head_dim), np.int32(rotary_dim),
         np.int64(max_context), np.float32(norm.eps if norm else 0.0)),
    )  # fmt: skip
    return out
