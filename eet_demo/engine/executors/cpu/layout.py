"""What the CPU executor stores where: panels for every matrix, and the scratch of each op. Needs no compiler.

Numbers of this file that end in the C++ too: PANEL (kPanel of matmul.h), CHUNK and PARTIAL_HEAD (attention.h),
SHARED_BYTES (sizeof(Shared) of sample.h), ACTIVATION_BLOCK_BYTES (sizeof(Activations<3>) of activations.h).
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from types import MappingProxyType
from typing import Literal, cast

import numpy as np
from numpy.typing import NDArray

from eet_demo.engine import program as p
from eet_demo.engine.blocks import BLOCK_BYTES, BLOCK_VALUES, WeightFormat, row_bytes
from eet_demo.engine.checkpoint import POSITIONS
from eet_demo.engine.dtypes import Real
from eet_demo.engine.plan import ALIGNMENT, Limits
from eet_demo.engine.spec import ModelSpec
from eet_demo.engine.weights import Weight
from eet_demo.sizes import ceil_div, round_up

Stored = Real | Literal["q8_0", "q4_0", "q4_1"]
"""How a matrix lies in the arena."""

PANEL = 16
CHUNK = 64
PARTIAL_HEAD = 16
SHARED_BYTES = 16 * (8 + 8 + 1024 * (8 + 4) + 8) + 3 * 8
FLOAT = 4
ACTIVATION_BLOCK_BYTES = 112


def padded(rows: int) -> int:
    """Rows rounded up to whole panels."""
    return round_up(rows, PANEL)


class CpuLayout:
    """float32 activations and cache; matrices as `formats` says, in `dtype` where it says nothing or dense."""

    activation_bytes = FLOAT
    kv_bytes = FLOAT
    library_bytes = 0

    def __init__(self, formats: Mapping[str, WeightFormat] = MappingProxyType({}), dtype: Real = "float32") -> None:
        self.formats, self.dtype = formats, dtype

    def format_of(self, matrix: str) -> Stored:
        """How the matrix of that canonical name is stored."""
        format = self.formats.get(matrix, "dense")
        return self.dtype if format == "dense" else format

    def weight_bytes(self, weight: Weight) -> int:
        if not weight.is_matrix:
            return FLOAT * panel_rows(weight)
        if weight.name == POSITIONS:
            return FLOAT * weight.rows * weight.columns
        format = self.format_of(weight.name)
        if format in BLOCK_BYTES:
            return panel_rows(weight) * row_bytes(cast(WeightFormat, format), weight.columns)
        return (FLOAT if format == "float32" else FLOAT // 2) * panel_rows(weight) * weight.columns

    def scratch_bytes(self, op: p.Op, limits: Limits) -> int:
        """What an op works in, then its input rows as integers where its weight is quantised."""
        floats = self.float_scratch_bytes(op, limits)
        linear = op.linear
        if linear is None or self.format_of(linear.weight) not in BLOCK_BYTES:
            return floats
        rows = limits.logit_rows if isinstance(op, p.NormLmHead) else limits.rows
        return floats + rows * linear.in_features // BLOCK_VALUES * ACTIVATION_BLOCK_BYTES

    def float_scratch_bytes(self, op: p.Op, limits: Limits) -> int:
        """A multiple of 64."""
        if isinstance(op, p.NormQkv):
            normed_heads = 0 if op.q_norm is None else op.spec.q_size + op.spec.kv_size
            return _lines(FLOAT * limits.rows * (op.qkv.in_features + 2 * op.spec.head_dim + normed_heads))
        if isinstance(op, p.NormAdd):
            return _lines(FLOAT * limits.rows * op.hidden_size)
        if isinstance(op, p.Attention):
            chunks = ceil_div(limits.max_context, CHUNK)
            return _lines(FLOAT * limits.max_batch * op.spec.num_heads * chunks * (op.spec.head_dim + PARTIAL_HEAD))
        if isinstance(op, p.NormMlp):
            return _lines(FLOAT * limits.rows * op.up.in_features)
        if isinstance(op, p.NormLmHead):
            return _lines(FLOAT * limits.logit_rows * op.head.in_features)
        if isinstance(op, p.Sample):
            return _lines(SHARED_BYTES + 8 * op.vocab_size)
        return 0

    def state_bytes(self, program: p.Program, limits: Limits) -> int:
        return 0


def _lines(size: int) -> int:
    """Bytes rounded up to whole cache lines."""
    return round_up(size, ALIGNMENT)


def panel_rows(weight: Weight) -> int:
    """Rows the weight fills, padding included: each part of a gated pair is padded alone."""
    return sum(padded(part.rows) for part in weight.parts) if weight.interleaved else padded(weight.rows)


def destinations(spec: ModelSpec, weight: Weight) -> list[NDArray[np.int32]]:
    """For each part, int32 (part.rows,): the row of the panels that each of its rows becomes.

    Gate and up alternate by panels. In layers with rotary half pairs, rows of q and k heads are reordered so that the
    two elements of a pair are neighbours. A bias takes its matrix's order, and so do the weights of q's and k's norms.
    """
    if weight.interleaved:
        rows = np.arange(weight.parts[0].rows)
        gate = rows // PANEL * 2 * PANEL + rows % PANEL
        return [gate.astype(np.int32), (gate + PANEL).astype(np.int32)]
    places = np.arange(weight.rows)
    kind = weight.name.split(".")[-2]
    if kind in ("qkv", "q_norm", "k_norm") and _turns_halves(spec, int(weight.name.split(".")[1])):
        turned = spec.q_size + spec.kv_size if kind == "qkv" else weight.rows
        head, element = np.divmod(places[:turned], spec.head_dim)
        places[:turned] = head * spec.head_dim + _side_by_side(spec)[element]
    starts = np.cumsum([0] + [part.rows for part in weight.parts])
    return [places[start:stop].astype(np.int32) for start, stop in pairwise(starts)]


def _turns_halves(spec: ModelSpec, layer: int) -> bool:
    return spec.positions[layer] == "rotary" and spec.rope_pairs == "half"


def _side_by_side(spec: ModelSpec) -> NDArray[np.int64]:
    """New place of each element of a head: i to 2i, i + rotary_dim / 2 to 2i + 1, the rest stay."""
    places = np.arange(spec.head_dim)
    half = spec.rotary_dim // 2
    places[:half] = 2 * np.arange(half)
    places[half : 2 * half] = 2 * np.arange(half) + 1
    return places
