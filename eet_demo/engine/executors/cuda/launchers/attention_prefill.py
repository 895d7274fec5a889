"""Launcher of kernels/cuda/attention_prefill.cu."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

import numpy as np

from eet_demo.engine.executors.cuda.arrays import DeviceArray, DType
from eet_demo.engine.executors.cuda.compile.launch import Instance, LaunchConfig, Launcher, check_array
from eet_demo.engine.executors.cuda.launchers.heads import check_cache, window_argument
from eet_demo.engine.executors.cuda.launchers.matrices import WeightFormat
from eet_demo.engine.executors.cuda.launchers.ragged_rows import RaggedRows
from eet_demo.engine.spec import ModelSpec
from eet_demo.errors import UnsupportedError
from eet_demo.sizes import ceil_div, round_up

THREADS = 128


@dataclass(frozen=True)
class PrefillTiles:
    """A block's tile: `queries` rows of one head, `slots` cache slots at a time, head_dim filled up to `padded`."""

    queries: int
    slots: int
    padded: int
    shared_bytes: int


@cache
def instance(dtype: DType, head_dim: int, soft_cap: bool = False) -> tuple[Instance, PrefillTiles]:
    """The kernel for heads of `head_dim` values: tensor cores for the half types, float32 on the ordinary ones.

    Shared memory of the half types: q first, then keys and values in its place, each row 8 values longer than
    `padded`; at most 34 KiB up to head_dim 128, so it needs no opt-in. float32: q, one tile of slots, the weights.
    """
    if dtype == "float32":
        queries, padded = THREADS // 32 * 4, round_up(head_dim, 32)
        shared_bytes = 4 * (queries * padded + 32 * (padded + 4) + queries * 32)
        kernel = Instance("attention_prefill", (padded, soft_cap, THREADS), kernel="attention_prefill_simt")
        return kernel, PrefillTiles(queries, 32, padded, shared_bytes)
    queries, large = THREADS // 2, head_dim > 128
    padded, slots = round_up(head_dim, 32 if large else 16), 32 if large else 64
    shared_bytes = 2 * (padded + 8) * max(queries, 2 * slots)
    return Instance("attention_prefill", (dtype, padded, soft_cap, slots, THREADS)), PrefillTiles(
        queries, slots, padded, shared_bytes
    )


def instances(spec: ModelSpec, dtype: DType, weights: WeightFormat) -> Iterator[Instance]:
    """One: window, ALiBi and scale are arguments."""
    yield instance(dtype, spec.head_dim, spec.attention_soft_cap is not None)[0]


def attention_prefill(
    launcher: Launcher,
    q: DeviceArray,
    keys: DeviceArray,
    values: DeviceArray,
    rows: RaggedRows,
    *,
    dtype: DType,
    longest: int,
    scale: float,
    out: DeviceArray,
    window: int | None = None,
    soft_cap: float | None = None,
    slopes: DeviceArray | None = None,
    compute_capability: int | None = None,
) -> DeviceArray:
    """Causal attention of ragged rows over the cache, their own keys and values already in it.

    Args:
        q: (rows, num_heads * head_dim) `dtype`.
        keys, values: (max_batch, num_kv_heads, max_context, head_dim) `dtype`.
        longest: rows of the longest sequence of this pass.
        out: (rows, num_heads * head_dim) `dtype`; written and returned. It may not be q.
        window: slots a row sees, itself included; None for all.
        soft_cap: c maps a score s to c * tanh(s / c).
        slopes: (num_heads,) float32, ALiBi.
        compute_capability: of the GPU, as 80 for sm_80; None on the simulator.

    Raises:
        UnsupportedError: shapes and dtypes, or bfloat16 before sm_80.
    """
    num_rows, q_size = q.shape
    num_kv_heads, max_context, head_dim = keys.shape[1:]
    num_heads = q_size // head_dim
    rows.check()
    check_cache(keys, values, num_heads, head_dim, dtype)
    check_array("q", q, (num_rows, num_heads * head_dim), dtype)
    check_array("out", out, q.shape, dtype)
    if slopes is not None:
        check_array("slopes", slopes, (num_heads,), "float32")
    if dtype == "bfloat16" and compute_capability is not None and compute_capability < 80:
        raise UnsupportedError(
            f"bfloat16 needs sm_80 or later; this GPU is sm_{compute_capability}: use float16 or float32"
        )
    if not 1 <= longest <= num_rows:
        raise UnsupportedError(f"a longest sequence of {longest} rows of {num_rows}: 1 to all are supported")
    kernel, tiles = instance(dtype, head_dim, soft_cap is not None)
    launcher.launch(
        kernel,
        LaunchConfig(
            THREADS,
            (ceil_div(longest, tiles.queries), num_heads, rows.batch),
            shared_bytes=tiles.shared_bytes,
            overlaps=True,
        ),
        (q, keys, values, rows.row_starts, rows.cache_rows, rows.cache_starts, slopes, out, np.int32(num_kv_heads),
         np.int32(head_dim), np.int64(max_context), window_argument(window), np.float32(scale),
         np.float32(soft_cap or 0.0)),
    )  # fmt: skip
    return out
