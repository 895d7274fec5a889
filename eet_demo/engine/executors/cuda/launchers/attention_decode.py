"""Launcher of kernels/cuda/attention_decode.cu."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Literal

import numpy as np

from eet_demo.engine.executors.cuda.arrays import DeviceArray, DType
from eet_demo.engine.executors.cuda.compile.launch import Instance, LaunchConfig, Launcher, check_array
from eet_demo.engine.executors.cuda.launchers.heads import check_head_dim, window_argument
from eet_demo.engine.executors.cuda.launchers.matrices import WeightFormat
from eet_demo.engine.spec import ModelSpec
from eet_demo.errors import UnsupportedError
from eet_demo.sizes import ceil_div

THREADS = 128
TILE_HEADS = 4
"""`kTileHeads` of attend.cuh."""
MAX_SPLITS = 32
"""Blocks of a row and pair: more would wait longer for each other than they save."""
TILE = 64
"""Slots: the least that is worth a block of its own."""
MAX_HEADS = 8
"""Query heads that share a load; registers hold no more of them."""
MAX_CONTEXT = 131072

Partition = Literal["split", "stream"]
PARTITIONS: tuple[Partition, ...] = ("split", "stream")


@dataclass(frozen=True)
class HeadTiling:
    """How a KV head's query heads are dealt to pairs: `heads` a pair at most, `pairs` in all KV heads together."""

    heads: int
    pairs: int


def head_tiling(num_heads: int, num_kv_heads: int) -> HeadTiling:
    """Even tiles of at most MAX_HEADS heads: 7 stay together, 12 become 6 + 6.

    Raises:
        UnsupportedError: num_heads is not a multiple of num_kv_heads.
    """
    if num_kv_heads < 1 or num_heads % num_kv_heads:
        raise UnsupportedError(
            f"{num_heads} query heads on {num_kv_heads} KV heads: a whole number of query heads a KV head is supported"
        )
    group = num_heads // num_kv_heads
    tiles = ceil_div(group, MAX_HEADS)
    return HeadTiling(ceil_div(group, tiles), num_kv_heads * tiles)


def choose_splits(rows: int, pairs: int, max_length: int, num_processors: int) -> int:
    """Blocks along x for rows of up to `max_length` slots, so that a wave covers the processors but tiles stay whole.

    `max_length` is a bucket, not a length: a captured graph keeps its grid while lengths grow up to it.
    """
    return max(1, min(ceil_div(2 * num_processors, rows * pairs), ceil_div(max_length, TILE), MAX_SPLITS))


def partials_size(partition: Partition, blocks: int, rows: int, tiling: HeadTiling, head_dim: int) -> int:
    """float32 values of scratch: every piece's accumulator, maximum and sum."""
    pieces = 2 * blocks if partition == "stream" else rows * tiling.pairs * blocks
    return pieces * tiling.heads * (head_dim + 2)


def threads(dtype: DType, head_dim: int, heads: int) -> int:
    """Of a block: with tensor-core tiles as many warps as have their two stages in 48 KiB of shared memory."""
    if heads < TILE_HEADS or dtype == "float32" or head_dim <= 64:
        return THREADS
    return THREADS // 2


@cache
def instance(
    dtype: DType, head_dim: int, heads: int, soft_cap: bool, partition: Partition, tile: int = TILE
) -> Instance:
    """Raises UnsupportedError for a head_dim or dtype the kernel does not have."""
    check_head_dim(head_dim)
    if dtype not in ("float32", "float16", "bfloat16"):
        raise UnsupportedError(f"attention in {dtype}; supported: float32, float16, bfloat16")
    return Instance(
        "attention_decode",
        (dtype, head_dim, heads, soft_cap, partition == "stream", tile, threads(dtype, head_dim, heads)),
    )


def instances(spec: ModelSpec, dtype: DType, weights: WeightFormat) -> Iterator[Instance]:
    """One a partition: window, ALiBi and scale are arguments."""
    heads = head_tiling(spec.num_heads, spec.num_kv_heads).heads
    for partition in PARTITIONS:
        yield instance(dtype, spec.head_dim, heads, spec.attention_soft_cap is not None, partition)


def attention_decode(
    launcher: Launcher,
    q: DeviceArray,
    keys: DeviceArray,
    values: DeviceArray,
    positions: DeviceArray,
    cache_rows: DeviceArray,
    *,
    dtype: DType,
    out: DeviceArray,
    partials: DeviceArray,
    counters: DeviceArray,
    blocks: int,
    scale: float,
    partition: Partition = "split",
    window: int | None = None,
    soft_cap: float | None = None,
    slopes: DeviceArray | None = None,
    tile: int = TILE,
) -> DeviceArray:
    """Attention of each row over slots 0 .. positions[row] of cache row cache_rows[row].

    Args:
        q: (rows, num_heads, head_dim) `dtype`; query head h reads KV head h // (num_heads // num_kv_heads).
        keys, values: (max_batch, num_kv_heads, max_context, head_dim) `dtype`, one layer's.
        positions, cache_rows: (rows,) int32, on the device; never looked at by the host.
        out: (rows, num_heads * head_dim) `dtype`; written and returned.
        partials: float32 scratch of at least `partials_size` values.
        counters: (at least rows * pairs,) uint32, zero; zero again afterwards.
        blocks: with `split`, blocks to each row and pair (`choose_splits`); with `stream`, blocks in all.
        scale: of the scores. soft_cap: cap * tanh(score / cap). slopes: (num_heads,) float32, ALiBi's.
        window: slots a row sees, itself included; None for all.
        tile: slots, the unit that blocks are dealt.

    Raises:
        UnsupportedError: a shape, dtype, head_dim or context that the kernel does not have.
    """
    check_array("q", q, (None, None, None), dtype)
    rows, num_heads, head_dim = q.shape
    check_array("keys", keys, (None, None, None, head_dim), dtype)
    check_array("values", values, keys.shape, dtype)
    _, num_kv_heads, max_context, _ = keys.shape
    if max_context > MAX_CONTEXT:
        raise UnsupportedError(f"a context of {max_context} slots: at most {MAX_CONTEXT} are supported")
    tiling = head_tiling(num_heads, num_kv_heads)
    kernel = instance(dtype, head_dim, tiling.heads, soft_cap is not None, partition, tile)
    check_array("positions", positions, (rows,), "int32")
    check_array("cache_rows", cache_rows, (rows,), "int32")
    check_array("out", out, (rows, num_heads * head_dim), dtype)
    if slopes is not None:
        check_array("slopes", slopes, (num_heads,), "float32")
    check_array("partials", partials, (None,), "float32")
    check_array("counters", counters, (None,), "uint32")
    needed = partials_size(partition, blocks, rows, tiling, head_dim)
    if partials.size < needed or counters.size < rows * tiling.pairs:
        raise UnsupportedError(
            f"scratch of {partials.size} values and {counters.size} counters: "
            f"{needed} and {rows * tiling.pairs} are needed"
        )
    launcher.launch(
        kernel,
        LaunchConfig(
            threads(dtype, head_dim, tiling.heads),
            (blocks, 1, 1) if partition == "stream" else (blocks, tiling.pairs, rows),
            overlaps=True,
        ),
        (q, keys, values, positions, cache_rows, slopes, out, partials, counters, np.int32(rows), np.int32(num_heads),
         np.int32(num_kv_heads), np.int64(max_context), window_argument(window),
         np.float32(scale), np.float32(0.0 if soft_cap is None else soft_cap)),
    )  # fmt: skip
    return out
