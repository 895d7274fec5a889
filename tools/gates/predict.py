"""How long a decode step should take: a model of bytes, latencies and instructions, with every assumption written here.

A projection asks for its first weights before its predecessor ends, so of its bytes only those it could not ask for
come on top of its chain of latencies; and no chain makes memory faster than it is. What the model leaves out: clocks
that sink, L2 hits of weights, the last blocks of a wave. Measured beside it by `python -m tools.gpucheck`.
source: Little's law; latencies as measured on H100 by public micro-benchmarks (arXiv 2402.13499)
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from eet_demo.engine.dtypes import DTYPE_BYTES
from eet_demo.engine.executors.cuda.launchers.attention_decode import TILE, TILE_HEADS
from eet_demo.sizes import ceil_div
from tools.gates.gates import PROJECTIONS
from tools.gates.gpus import Gpu
from tools.gates.paper import Launched

REACH = 0.9
"""Of the data sheet's bandwidth that a stream gets: 3.0 of an H100's 3.35 TB/s."""
HANDOVER_US = 0.9
"""From a kernel's last block until the wait of the next one returns."""
MEMORY_US = 0.65
CACHE_US = 0.25
"""A load that L2 has."""
BLOCK_US = 0.12
"""A sum over a block, its barrier included; as long for writing a stage and reading it back."""
END_US = 0.3
"""Sums over lanes and warps, the epilogue, stores on their way."""
TICKET_US = 0.6
"""A counter of another block's: to L2 and back, with its fence."""
GRAPH_US = 2.0
"""Between two launched graphs."""
ISSUE = 2.5
"""Instructions a cycle and multiprocessor."""
LANE_BYTES = 64
"""That a lane of a projection has under way."""
TILE_SLOTS = 16
"""`kSlots` of attend_tiles (attend.cuh)."""


@dataclass(frozen=True)
class Prediction:
    """Microseconds of one launch, and its bytes of weights and cache."""

    us: float
    streamed_bytes: int


def predict(launched: Launched, length: int, gpu: Gpu, instructions_a_byte: float | None = None) -> Prediction:
    """The time that the launch adds to its step, at `length` slots a row."""
    stem = launched.instance.stem
    if stem in PROJECTIONS:
        return _projection(launched, gpu, instructions_a_byte or 0.0)
    if stem == "attention_decode":
        return _attention(launched, length, gpu)
    if stem == "sample":
        return Prediction(HANDOVER_US + 2 * CACHE_US + 4 * BLOCK_US + END_US + GRAPH_US, 0)
    return Prediction(HANDOVER_US + 2 * CACHE_US + END_US, 0)


def in_flight_bytes(launched: Launched, resident: int, gpu: Gpu) -> float:
    """Bytes of weights or cache that a multiprocessor has asked for at any time, and 0 for kernels that stream none."""
    return min(resident, launched.blocks / gpu.processors) * _block_in_flight(launched)


def _block_in_flight(launched: Launched) -> int:
    """Of a block: what its lanes, or its stages in shared memory, have under way."""
    stem, arguments, threads = launched.instance.stem, launched.instance.arguments, launched.config.threads
    if stem in PROJECTIONS:
        return threads * LANE_BYTES
    if stem != "attention_decode":
        return 0
    dtype, head_dim, heads = arguments[:3]
    assert isinstance(dtype, str)
    assert isinstance(head_dim, int)
    assert isinstance(heads, int)
    if dtype != "float32" and heads >= TILE_HEADS:
        teams = threads // 32 // (2 if head_dim > 128 else 1)
        return teams * 2 * TILE_SLOTS * head_dim * DTYPE_BYTES[dtype]
    values = 16 // DTYPE_BYTES[dtype]
    vectors = ceil_div(head_dim, values)
    lanes = next(n for n in (2, 4, 8, 16, 32) if vectors <= n or n == 32)
    steps = ceil_div(vectors, lanes)
    slots = 4 if heads * steps * values <= 32 else 2
    return threads * slots * steps * 2 * 16


def _projection(launched: Launched, gpu: Gpu, instructions_a_byte: float) -> Prediction:
    total = launched.weight_bytes
    held = launched.instance.arguments[6] is True if len(launched.instance.arguments) > 6 else False
    rows_read = 1 if held or launched.instance.stem == "linear_residual" else 3
    reductions = 0 if launched.instance.stem == "linear_residual" else rows_read - (rows_read == 3)
    chain = HANDOVER_US + rows_read * CACHE_US + (reductions + 1) * BLOCK_US + END_US
    early = launched.blocks * launched.config.threads * LANE_BYTES
    rate = _bytes_a_us(gpu)
    if instructions_a_byte:
        rate = min(rate, gpu.processors * ISSUE * gpu.clock_ghz * 1e3 / instructions_a_byte)
    return Prediction(max(total / rate, chain + max(0, total - early) / rate), total)


def _attention(launched: Launched, length: int, gpu: Gpu) -> Prediction:
    """Keys and values once; a ticket and a merge where a row's slots are dealt to several blocks."""
    q, keys = launched.argument("q"), launched.argument("keys")
    assert q is not None
    assert not isinstance(q, np.generic)
    assert keys is not None
    assert not isinstance(keys, np.generic)
    rows, _, head_dim = q.shape
    streamed = 2 * rows * keys.shape[1] * length * head_dim * keys.itemsize
    parts = min(launched.config.grid[0], ceil_div(length, TILE))
    merge = TICKET_US + 2 * CACHE_US + BLOCK_US + END_US if parts > 1 else 0.0
    chain = HANDOVER_US + MEMORY_US + 2 * BLOCK_US + END_US + merge
    rate = min(_bytes_a_us(gpu), launched.blocks * _block_in_flight(launched) / MEMORY_US)
    return Prediction(chain + streamed / rate, streamed)


def _bytes_a_us(gpu: Gpu) -> float:
    return gpu.bandwidth_tb_s * 1e6 * REACH
