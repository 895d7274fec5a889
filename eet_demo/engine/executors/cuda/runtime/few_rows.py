"""The step program for up to 16 rows: one fused kernel an op."""

from __future__ import annotations

from functools import singledispatchmethod

from eet_demo.engine import program as p
from eet_demo.engine.executors.cuda.launchers.attention_decode import (
    TILE,
    Partition,
    attention_decode,
    choose_splits,
    head_tiling,
)
from eet_demo.engine.executors.cuda.launchers.embed import embed
from eet_demo.engine.executors.cuda.launchers.linear_residual import linear_residual
from eet_demo.engine.executors.cuda.launchers.norm_add import norm_add
from eet_demo.engine.executors.cuda.launchers.norm_mlp import norm_mlp
from eet_demo.engine.executors.cuda.launchers.norm_qkv import QkScratch, norm_qkv
from eet_demo.engine.executors.cuda.runtime.inputs import StepInputs
from eet_demo.engine.executors.cuda.runtime.layout import MAX_PROCESSORS
from eet_demo.engine.executors.cuda.runtime.operands import Operands
from eet_demo.engine.executors.cuda.runtime.queue import Queue
from eet_demo.records import SplitKv
from eet_demo.sizes import ceil_div


class FewRows:
    """One method an op."""

    def __init__(self, operands: Operands, queue: Queue, processors: int, split_kv: SplitKv) -> None:
        self._operands, self._queue, self._dtype = operands, queue, operands.dtype
        self._processors, self._split_kv = min(processors, MAX_PROCESSORS), split_kv

    @singledispatchmethod
    def run(self, op: p.Op, inputs: StepInputs) -> None:
        """Enqueues the op's kernels."""
        raise TypeError(f"no kernel for {op.stem}")

    @run.register
    def embed(self, op: p.Embed, inputs: StepInputs) -> None:
        operands, norm = self._operands, self._operands.norm(op.norm)
        embed(
            self._queue, inputs.token_ids, inputs.positions, operands.matrix(op.tokens), dtype=self._dtype,
            out=operands.buffer(p.RESIDUAL, inputs.rows), positions=operands.table(op.positions), norm=norm.kind,
            norm_weight=norm.weight, norm_bias=norm.bias, scale=op.scale, eps=norm.eps,
        )  # fmt: skip

    @run.register
    def norm_qkv(self, op: p.NormQkv, inputs: StepInputs) -> None:
        operands, rows = self._operands, inputs.rows
        keys, values = operands.cache(op.layer)
        qk_norm = operands.qk_norm(op)
        scratch = None
        if qk_norm:
            scratch = QkScratch(operands.scratch(op, "workspace", rows), operands.arena.state["qk_counters"])
        norm_qkv(
            self._queue, operands.buffer(p.RESIDUAL, rows), operands.norm(op.norm), operands.matrix(op.qkv.weight),
            inputs.positions, inputs.ragged, dtype=self._dtype, keys=keys, values=values,
            out=operands.buffer(op.writes[0], rows), bias=operands.vector(op.qkv.bias), qk_norm=qk_norm,
            scratch=scratch, frequencies=operands.frequencies(op.layer),
            interleaved=op.spec.rope_pairs == "interleaved",
        )  # fmt: skip

    @run.register
    def attention(self, op: p.Attention, inputs: StepInputs) -> None:
        operands, spec, rows = self._operands, op.spec, inputs.rows
        keys, values = operands.cache(op.layer)
        partition, blocks = self._partition(rows, head_tiling(spec.num_heads, spec.num_kv_heads).pairs, inputs.length)
        q = operands.buffer(op.reads[0], rows).view((rows, spec.num_heads, spec.head_dim))
        attention_decode(
            self._queue, q, keys, values, inputs.positions, inputs.row_caches, dtype=self._dtype,
            out=operands.buffer(op.writes[0], rows), partials=operands.scratch(op, "partials"),
            counters=operands.arena.state["attention_counters"], blocks=blocks, scale=spec.scale, partition=partition,
            window=op.window, soft_cap=spec.attention_soft_cap, slopes=operands.slopes(op),
        )  # fmt: skip

    @run.register
    def linear_residual(self, op: p.LinearResidual, inputs: StepInputs) -> None:
        operands, rows = self._operands, inputs.rows
        residual = operands.buffer(p.RESIDUAL, rows) if op.to_residual else None
        linear_residual(
            self._queue, operands.buffer(op.reads[0], rows), operands.matrix(op.out.weight), dtype=self._dtype,
            bias=operands.vector(op.out.bias), residual=residual,
            product=None if op.to_residual else operands.buffer(op.writes[0], rows), scale=op.scale,
        )  # fmt: skip

    @run.register
    def norm_add(self, op: p.NormAdd, inputs: StepInputs) -> None:
        operands, rows = self._operands, inputs.rows
        norm_add(
            self._queue, operands.buffer(op.reads[0], rows), operands.norm(op.norm), dtype=self._dtype,
            residual=operands.buffer(p.RESIDUAL, rows), scale=op.scale,
        )  # fmt: skip

    @run.register
    def norm_mlp(self, op: p.NormMlp, inputs: StepInputs) -> None:
        operands, rows = self._operands, inputs.rows
        norm_mlp(
            self._queue, operands.buffer(p.RESIDUAL, rows), operands.norm(op.norm), operands.matrix(op.up.weight),
            dtype=self._dtype, activation=op.activation, gated=op.gated, out=operands.buffer(op.writes[0], rows),
            bias=operands.vector(op.up.bias),
        )  # fmt: skip

    def _partition(self, rows: int, pairs: int, length: int) -> tuple[Partition, int]:
        """How decode attention is dealt to blocks; `length` is a bucket, so a captured graph serves many steps."""
        if self._split_kv == "stream":
            return "stream", max(1, min(2 * self._processors, rows * pairs * ceil_div(length, TILE)))
        if self._split_kv == "off":
            return "split", 1
        return "split", choose_splits(rows, pairs, length, self._processors)
