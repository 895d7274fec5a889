"""What the cuda and sim executors keep where: weights, scratch of each op, and state that lives on the device.

Needs no device: `MAX_PROCESSORS` bounds what the number of multiprocessors decides later.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from eet_demo.engine import program as p
from eet_demo.engine.dtypes import DTYPE_BYTES, Real
from eet_demo.engine.executors.cuda.arrays import DType
from eet_demo.engine.executors.cuda.launchers.attention_decode import head_tiling, partials_size
from eet_demo.engine.executors.cuda.launchers.gemv import BATCHES, MAX_ROWS, plan_gemv
from eet_demo.engine.executors.cuda.launchers.matrices import BLOCK_VALUES, WeightFormat
from eet_demo.engine.executors.cuda.launchers.sample import SETTINGS, scratch_fields
from eet_demo.engine.plan import ALIGNMENT, Limits
from eet_demo.engine.spec import ModelSpec
from eet_demo.engine.weights import Weight
from eet_demo.sizes import round_up

MAX_PROCESSORS = 160
"""Multiprocessors that decode attention is split over at most; more exist on no GPU yet."""

MAX_STOPS = 64
"""Stop tokens a request may name."""

TILE_BYTES = 32 << 20
"""Of a quantised weight brought to the compute dtype at a time, for the GEMMs of many rows."""

CUBLAS_BYTES = 32 << 20
"""What torch gives cuBLAS on sm_90 (aten/src/ATen/cuda/CUDABlas.cpp); 8 MiB before, so this is the most."""

Shape = tuple[int, ...]
Fields = dict[str, tuple[Shape, DType]]


class CudaLayout:
    """Compute dtype for activations, KV cache, biases and dense matrices; float32 for norms; planes for blocks."""

    def __init__(self, dtype: Real, formats: Mapping[str, WeightFormat], library_bytes: int = 0) -> None:
        self.dtype, self._formats, self.library_bytes = dtype, formats, library_bytes
        self.activation_bytes = self.kv_bytes = DTYPE_BYTES[dtype]

    def weight_bytes(self, weight: Weight) -> int:
        if not weight.is_matrix:
            return weight.rows * DTYPE_BYTES[vector_dtype(weight.name, self.dtype)]
        format = self._formats[weight.name]
        if format == "dense":
            return weight.rows * weight.columns * self.activation_bytes
        values, scales = plane_bytes(format, weight.rows, weight.columns)
        return aligned(values) + scales

    def scratch_bytes(self, op: p.Op, limits: Limits) -> int:
        return sum(aligned(nbytes(entry)) for entry in self.scratch(op, limits).values())

    def scratch(self, op: p.Op, limits: Limits) -> Fields:
        """What `op` needs while it runs, by name, in order."""
        many = limits.rows > MAX_ROWS
        rows, dtype = limits.rows, self.dtype
        entries: Fields = {}
        if isinstance(op, p.NormQkv):
            if op.q_norm:
                entries["workspace"] = (MAX_ROWS, op.spec.q_size + op.spec.kv_size), "float32"
            if many:
                entries["product"] = (rows, op.qkv.out_features), dtype
        elif isinstance(op, p.Attention):
            entries["partials"] = (self._partials(op.spec, max(MAX_ROWS, limits.max_batch)),), "float32"
        elif isinstance(op, p.LinearResidual) and many and op.to_residual:
            entries["product"] = (rows, op.out.out_features), dtype
        elif isinstance(op, p.NormMlp) and many:
            entries["product"] = (rows, op.up.out_features), dtype
        elif isinstance(op, p.NormLmHead) and limits.logit_rows > MAX_ROWS:
            width = op.head.in_features
            entries["normed"] = (limits.logit_rows, width), dtype
            entries["wide"] = (limits.logit_rows, width), "float32"
            entries["tile"] = (tile_rows(op.head, "float32"), width), "float32"
        elif isinstance(op, p.Sample):
            fields = scratch_fields(limits.logit_rows, op.vocab_size)
            entries |= {name: fields[name] for name in ("firsts", "survivors")}
        linear = op.linear
        if linear and many and not isinstance(op, p.NormLmHead) and self._formats[linear.weight] != "dense":
            entries["tile"] = (tile_rows(linear, dtype), linear.in_features), dtype
        return entries

    def state_bytes(self, program: p.Program, limits: Limits) -> int:
        return sum(aligned(nbytes(entry)) for entry in self.state(program, limits).values())

    def state(self, program: p.Program, limits: Limits) -> Fields:
        """What outlives a step, by name, in order."""
        spec, rows, batch = program.spec, limits.rows, limits.max_batch
        heads = spec.num_heads + spec.num_kv_heads
        entries: Fields = {
            "inputs": (inputs_shape(rows, batch, limits.logit_rows), "int32"),
            "rows": (rows_shape(limits.logit_rows), "int32"),
            "qk_counters": ((heads,), "uint32"),
            "attention_counters": (
                (max(MAX_ROWS, batch) * head_tiling(spec.num_heads, spec.num_kv_heads).pairs,), "uint32",
            ),
            "slopes": ((spec.num_heads,), "float32"),
            "frequencies": ((max(1, spec.rotary_dim // 2),), "float32"),
            "local_frequencies": ((max(1, spec.rotary_dim // 2),), "float32"),
            "best_logits": ((MAX_ROWS * self._head_blocks(program),), "float32"),
            "best_ids": ((MAX_ROWS * self._head_blocks(program),), "int32"),
        }  # fmt: skip
        fields = scratch_fields(limits.logit_rows, spec.vocab_size)
        entries |= {f"sample_{name}": fields[name] for name in ("classes", "counters")}
        if rows > MAX_ROWS:
            entries["normed"] = (rows, spec.hidden_size), self.dtype
        return entries

    def _head_blocks(self, program: p.Program) -> int:
        head = program.ops[-2].linear
        assert head is not None, "norm_lm_head is a projection"
        format = self._formats[head.weight]
        return max(plan_gemv(head.out_features, head.in_features, n, self.dtype, format).tiles for n in BATCHES)

    def _partials(self, spec: ModelSpec, rows: int) -> int:
        """float32 values for any number of splits that a device of at most MAX_PROCESSORS is given."""
        tiling = head_tiling(spec.num_heads, spec.num_kv_heads)
        split = partials_size("split", 1, 1, tiling, spec.head_dim) // tiling.pairs
        most = 2 * MAX_PROCESSORS + rows * tiling.pairs
        return max(most * split, partials_size("stream", 2 * MAX_PROCESSORS, rows, tiling, spec.head_dim))


def vector_dtype(name: str, dtype: DType) -> DType:
    """Norms are float32 whatever is computed in; biases are in the compute dtype."""
    return "float32" if name.rsplit(".", 1)[0].endswith("norm") else dtype


def plane_bytes(format: WeightFormat, rows: int, columns: int) -> tuple[int, int]:
    """Bytes of the values and of the scales of a quantised matrix."""
    values = rows * columns // (1 if format == "q8_0" else 2)
    return values, rows * columns // BLOCK_VALUES * (4 if format == "q4_1" else 2)


def tile_rows(linear: p.Linear, dtype: DType) -> int:
    """Rows of a weight that are brought to `dtype` at a time."""
    return max(1, min(linear.out_features, TILE_BYTES // (linear.in_features * DTYPE_BYTES[dtype])))


def inputs_shape(rows: int, batch: int, wanted: int) -> Shape:
    """Words of a prefill pass's inputs: see `StepInputs`. Every field starts at a multiple of 64 bytes."""
    return (3 * words(rows) + words(batch + 1) + 2 * words(batch) + words(wanted),)


def rows_shape(rows: int) -> Shape:
    """Words of the state of `rows` rows that draw tokens: see `RowState`."""
    return (8 * words(rows) + words(rows + 1) + words(SETTINGS) + words(MAX_STOPS),)


def words(count: int) -> int:
    """int32 words that `count` of them take, alignment included."""
    return aligned(4 * count) // 4


def nbytes(entry: tuple[Shape, DType]) -> int:
    return math.prod(entry[0]) * DTYPE_BYTES[entry[1]]


def aligned(size: int) -> int:
    return round_up(size, ALIGNMENT)
