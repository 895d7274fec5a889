"""The executor that runs the step program with the reference's functions, in float32 or float64."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator, Mapping
from functools import singledispatchmethod
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eet_demo.engine import program as p
from eet_demo.engine.blocks import WeightFormat, dequantise
from eet_demo.engine.checkpoint import Checkpoint, RowBlock
from eet_demo.engine.executors import Float32, Int32, Step
from eet_demo.engine.executors.host_arena import HostArena
from eet_demo.engine.executors.reference import kernels as reference
from eet_demo.engine.families import weights_of
from eet_demo.engine.passes import decode_on_host
from eet_demo.engine.plan import Limits, Plan
from eet_demo.engine.sampling import check_drawn, sample
from eet_demo.engine.weights import Weight

Array = NDArray[Any]


class ReferenceLayout:
    """Dense rows, no padding, no scratch: NumPy's own temporaries are outside the plan."""

    library_bytes = 0

    def __init__(self, dtype: str) -> None:
        self.activation_bytes = self.kv_bytes = np.dtype(dtype).itemsize

    def weight_bytes(self, weight: Weight) -> int:
        return weight.rows * max(1, weight.columns) * self.activation_bytes

    def scratch_bytes(self, op: p.Op, limits: Limits) -> int:
        return 0

    def state_bytes(self, program: p.Program, limits: Limits) -> int:
        return 0


class ReferenceExecutor:
    """One method an op."""

    threads = None  # NumPy's matrix products have as many as its BLAS takes

    def __init__(
        self,
        program: p.Program,
        plan: Plan,
        dtype: str,
        debug: bool = False,
        formats: Mapping[str, WeightFormat] = MappingProxyType({}),
    ) -> None:
        """`formats` by weight, dense where it has none; a quantised weight is dequantised at load."""
        self._formats = formats
        self._program, self._plan, self._spec = program, plan, program.spec
        self._dtype = np.dtype(dtype)
        self._debug = debug
        self._arena = HostArena(plan, debug)
        self._weights: dict[str, Array] = {}
        for weight in weights_of(program.spec):
            shape = (weight.rows, weight.columns) if weight.is_matrix else (weight.rows,)
            self._weights[weight.name] = self._arena.view(weight.name, self._dtype, shape)
        spec, limits = program.spec, plan.limits
        slots = (spec.num_layers, 2, limits.max_batch, spec.num_kv_heads, limits.max_context)
        self._cache = self._arena.view("kv_cache", self._dtype, (*slots, spec.head_dim))
        self._frequencies = [spec.rotary_frequencies(limits.max_context, layer) for layer in range(spec.num_layers)]
        self._buffers: dict[str, Array] = {}

    def load(self, checkpoint: Checkpoint) -> None:
        """Raises CheckpointError for missing or misshapen tensors, before anything is read."""
        checkpoint.check()
        for weight in weights_of(self._spec):
            target = self._weights[weight.name]
            for block in self._blocks(checkpoint, weight):
                target[weight.rows_of(block.part, block.start, len(block.values))] = block.values

    def _blocks(self, checkpoint: Checkpoint, weight: Weight) -> Iterator[RowBlock]:
        """The weight's values; of a quantised one, those its blocks stand for."""
        if (stored := self._formats.get(weight.name, "dense")) == "dense":
            yield from checkpoint.blocks(weight)
            return
        for block in checkpoint.raw_blocks(weight):
            yield RowBlock(block.part, block.start, dequantise(block.raw, stored))

    def run(self, step: Step) -> Int32:
        for op in self._program.ops[:-2]:
            self._run(op, step)
        if len(step.wanted) == 0:
            return np.empty(0, np.int32)
        rows = self.head(step.wanted)
        tokens = [
            sample(logits, step.sampling, int(count), int(row))
            for logits, count, row in zip(rows, step.sample_steps, step.sample_rows, strict=True)
        ]
        if self._debug:
            self._arena.check_guards()
        return check_drawn(np.array(tokens, np.int32), step.sample_rows)

    def decode(self, step: Step, count: int, stop: frozenset[int]) -> Generator[tuple[Int32, int]]:
        return decode_on_host(self.run, step, count, stop)

    def head(self, wanted: Int32) -> Float32:
        op = self._program.ops[-2]
        assert isinstance(op, p.NormLmHead)
        normed = self._normed(op.norm, self._get(p.RESIDUAL)[wanted])
        logits = reference.norm_lm_head(normed, *self._linear(op.head), op.scale, op.soft_cap)
        return logits.astype(np.float32)

    def measure_bandwidth_gb_s(self) -> float:
        """One pass of NumPy's sum over the weights."""
        weights = self._arena.bytes[: self._plan.report.weights_bytes].view(np.uint64)
        start = time.perf_counter()
        weights.max()
        return float(weights.nbytes / (time.perf_counter() - start) / 1e9)

    def close(self) -> None:
        self._weights, self._buffers = {}, {}
        self._cache = np.empty(0, self._dtype)
        self._arena.close()

    # The ops.

    @singledispatchmethod
    def _run(self, op: p.Op, step: Step) -> None:
        raise TypeError(f"the reference has no method for {op.stem}")

    @_run.register
    def _embed(self, op: p.Embed, step: Step) -> None:
        table = self._weights[op.positions] if op.positions else None
        rows = reference.embed(step.token_ids, step.positions, self._weights[op.tokens], table, op.scale)
        self._put(p.RESIDUAL, self._normed(op.norm, rows))

    @_run.register
    def _norm_qkv(self, op: p.NormQkv, step: Step) -> None:
        spec = self._spec
        q, k, v = reference.norm_qkv(
            self._normed(op.norm, self._get(p.RESIDUAL)),
            *self._linear(op.qkv),
            (spec.num_heads, spec.num_kv_heads, spec.head_dim),
            step.positions,
            self._frequencies[op.layer] if spec.positions[op.layer] == "rotary" else None,
            spec.rope_pairs,
            None if op.q_norm is None else lambda x, is_key: self._head_normed(op.k_norm if is_key else op.q_norm, x),
            spec.qk_norm != "full",
        )
        for b, (start, stop, cache) in enumerate(self._sequences(op.layer, step)):
            for index, rows in enumerate((k, v)):
                reference.append_cache(cache[index], rows[start:stop], int(step.cache_starts[b]))
        self._put(op.writes[0], q.reshape(step.rows, -1))

    @_run.register
    def _attention(self, op: p.Attention, step: Step) -> None:
        spec = self._spec
        q = self._get(op.reads[0]).reshape(step.rows, spec.num_heads, spec.head_dim)
        slopes = spec.alibi_slopes() if op.alibi else None
        outputs = []
        for start, stop, cache in self._sequences(op.layer, step):
            slots = int(step.positions[stop - 1]) + 1
            keys, values = cache[0][:, :slots], cache[1][:, :slots]
            rows = slice(start, stop)
            outputs.append(
                reference.attention(
                    q[rows], keys, values, step.positions[rows], spec.scale, op.window, spec.attention_soft_cap, slopes
                )
            )
        self._put(op.writes[0], np.concatenate(outputs))

    @_run.register
    def _linear_residual(self, op: p.LinearResidual, step: Step) -> None:
        x = self._get(op.reads[0])
        if op.to_residual:
            self._put(p.RESIDUAL, reference.linear_residual(self._get(p.RESIDUAL), x, *self._linear(op.out), op.scale))
        else:
            self._put(op.writes[0], reference.linear(x, *self._linear(op.out)))

    @_run.register
    def _norm_add(self, op: p.NormAdd, step: Step) -> None:
        normed = self._normed(op.norm, self._get(op.reads[0]))
        self._put(p.RESIDUAL, reference.norm_add(self._get(p.RESIDUAL), normed, op.scale))

    @_run.register
    def _norm_mlp(self, op: p.NormMlp, step: Step) -> None:
        normed = self._normed(op.norm, self._get(p.RESIDUAL))
        self._put(op.writes[0], reference.norm_mlp(normed, *self._linear(op.up), op.gated, op.activation))

    # Operands.

    def _normed(self, norm: p.Norm | None, x: Array) -> Array:
        if norm is None:
            return x
        bias = self._weights[norm.bias] if norm.bias else None
        return reference.normalise(x, norm.kind, norm.eps, self._weights[norm.weight], bias)

    def _head_normed(self, norm: p.Norm | None, x: Array) -> Array:
        """q or k (rows, heads, head_dim), each head alone, or (rows, heads * head_dim) at once."""
        assert norm is not None
        weight = self._weights[norm.weight]
        each = weight.reshape(x.shape[1:]) if weight.size == x[0].size else weight
        return reference.normalise(x, norm.kind, norm.eps, each, None)

    def _linear(self, linear: p.Linear) -> tuple[Array, Array | None]:
        return self._weights[linear.weight], self._weights[linear.bias] if linear.bias else None

    def _sequences(self, layer: int, step: Step) -> list[tuple[int, int, Array]]:
        """Rows of each sequence and its cache (2, num_kv_heads, max_context, head_dim)."""
        starts = step.row_starts
        return [
            (int(starts[b]), int(starts[b + 1]), self._cache[layer, :, step.cache_rows[b]]) for b in range(step.batch)
        ]

    def _put(self, name: str, value: Array) -> None:
        """Stores a buffer where the plan put it, so that a wrong lifetime would corrupt a result here too."""
        view = self._arena.view(name, self._dtype, value.shape)
        view[...] = value
        self._buffers[name] = view

    def _get(self, name: str) -> Array:
        return self._buffers[name]
