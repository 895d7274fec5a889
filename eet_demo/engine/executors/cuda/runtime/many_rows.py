"""The step program for more than 16 rows: GEMMs by cuBLAS through torch, our kernels for everything between them."""

from __future__ import annotations

from functools import singledispatchmethod

import torch

from eet_demo.engine import program as p
from eet_demo.engine.executors.cuda.arrays import DeviceArray, DType
from eet_demo.engine.executors.cuda.launchers.activation import activation
from eet_demo.engine.executors.cuda.launchers.add_norm import add_norm
from eet_demo.engine.executors.cuda.launchers.attention_prefill import attention_prefill
from eet_demo.engine.executors.cuda.launchers.dequantise import dequantise
from eet_demo.engine.executors.cuda.launchers.last_rows import last_rows
from eet_demo.engine.executors.cuda.launchers.qkv_post import qkv_post
from eet_demo.engine.executors.cuda.runtime.few_rows import FewRows
from eet_demo.engine.executors.cuda.runtime.inputs import StepInputs
from eet_demo.engine.executors.cuda.runtime.operands import Operands
from eet_demo.engine.executors.cuda.runtime.queue import Queue


class ManyRows:
    """One method an op; ops that are no projection are those of few rows."""

    def __init__(self, operands: Operands, queue: Queue, few: FewRows, capability: int | None) -> None:
        self._operands, self._queue, self._few, self._dtype = operands, queue, few, operands.dtype
        self._capability = capability
        ops = operands.program.ops
        self._next = dict(zip((op.name for op in ops), ops[1:], strict=False))
        self._normed_for: str | None = None

    @singledispatchmethod
    def run(self, op: p.Op, inputs: StepInputs) -> None:
        """Enqueues the op's kernels."""
        raise TypeError(f"no kernel for {op.stem}")

    @run.register
    def embed(self, op: p.Embed, inputs: StepInputs) -> None:
        self._normed_for = None
        self._few.embed(op, inputs)

    @run.register
    def norm_qkv(self, op: p.NormQkv, inputs: StepInputs) -> None:
        operands, rows = self._operands, inputs.rows
        product = operands.scratch(op, "product", rows)
        self._multiply(self._normed(op, op.norm, rows), op, op.qkv, product)
        keys, values = operands.cache(op.layer)
        qkv_post(
            self._queue, product, inputs.positions, inputs.ragged, dtype=self._dtype, keys=keys, values=values,
            out=operands.buffer(op.writes[0], rows), bias=operands.vector(op.qkv.bias), norm=operands.qk_norm(op),
            frequencies=operands.frequencies(op.layer), interleaved=op.spec.rope_pairs == "interleaved",
        )  # fmt: skip

    @run.register
    def attention(self, op: p.Attention, inputs: StepInputs) -> None:
        if inputs.longest == 1:  # one row a sequence: the kernel that splits the cache
            self._few.attention(op, inputs)
            return
        operands, rows = self._operands, inputs.rows
        keys, values = operands.cache(op.layer)
        attention_prefill(
            self._queue, operands.buffer(op.reads[0], rows), keys, values, inputs.ragged, dtype=self._dtype,
            longest=inputs.longest, scale=op.spec.scale, out=operands.buffer(op.writes[0], rows), window=op.window,
            soft_cap=op.spec.attention_soft_cap, slopes=operands.slopes(op), compute_capability=self._capability,
        )  # fmt: skip

    @run.register
    def linear_residual(self, op: p.LinearResidual, inputs: StepInputs) -> None:
        """The sum also normalises for the projection that follows, if one does."""
        operands, rows = self._operands, inputs.rows
        source, bias = operands.buffer(op.reads[0], rows), operands.vector(op.out.bias)
        if not op.to_residual:
            self._multiply(source, op, op.out, operands.buffer(op.writes[0], rows), bias)
            return
        product = operands.scratch(op, "product", rows)
        self._multiply(source, op, op.out, product)
        following = self._next[op.name]
        norm, out = operands.norm(None), None
        if isinstance(following, p.NormQkv | p.NormMlp):
            norm, out = operands.norm(following.norm), self._normed_rows(rows)
            self._normed_for = following.name
        add_norm(
            self._queue, operands.buffer(p.RESIDUAL, rows), product, dtype=self._dtype, bias=bias, scale=op.scale,
            norm=norm.kind, norm_weight=norm.weight, norm_bias=norm.bias, eps=norm.eps, out=out,
        )  # fmt: skip

    @run.register
    def norm_add(self, op: p.NormAdd, inputs: StepInputs) -> None:
        self._few.norm_add(op, inputs)

    @run.register
    def norm_mlp(self, op: p.NormMlp, inputs: StepInputs) -> None:
        operands, rows = self._operands, inputs.rows
        product = operands.scratch(op, "product", rows)
        self._multiply(self._normed(op, op.norm, rows), op, op.up, product)
        activation(
            self._queue, product, dtype=self._dtype, kind=op.activation, gated=op.gated,
            out=operands.buffer(op.writes[0], rows), bias=operands.vector(op.up.bias),
        )  # fmt: skip

    def head(self, op: p.NormLmHead, inputs_rows: int, wanted: DeviceArray, logits: DeviceArray) -> None:
        """logits of more than 16 wanted rows, in float32 from the normed rows on: half logits would lose digits."""
        operands, norm, rows = self._operands, self._operands.norm(op.norm), wanted.shape[0]
        normed, wide = operands.scratch(op, "normed", rows), operands.scratch(op, "wide", rows)
        last_rows(
            self._queue, operands.buffer(p.RESIDUAL, inputs_rows), wanted, dtype=self._dtype, out=normed,
            norm=norm.kind, norm_weight=norm.weight, norm_bias=norm.bias, eps=norm.eps,
        )  # fmt: skip
        target, source, out = operands.tensor(wide), operands.tensor(normed), operands.tensor(logits)
        self._queue.call(lambda: target.copy_(source))
        self._multiply_tiles(target, op, op.head, out, "float32")
        bias = operands.vector(op.head.bias)
        offset = None if bias is None else operands.tensor(bias)
        self._queue.call(lambda: _finish_logits(out, offset, op.scale, op.soft_cap))

    def _normed(self, op: p.Op, norm: p.Norm | None, rows: int) -> DeviceArray:
        """norm(residual) in the compute dtype, where the sum before has not left it already."""
        operands, out = self._operands, self._normed_rows(rows)
        if self._normed_for != op.name:
            weights = operands.norm(norm)
            add_norm(
                self._queue, operands.buffer(p.RESIDUAL, rows), dtype=self._dtype, norm=weights.kind,
                norm_weight=weights.weight, norm_bias=weights.bias, eps=weights.eps, out=out,
            )  # fmt: skip
        self._normed_for = None
        return out

    def _normed_rows(self, rows: int) -> DeviceArray:
        return self._operands.arena.state["normed"][:rows]

    def _multiply(
        self, x: DeviceArray, op: p.Op, linear: p.Linear, out: DeviceArray, bias: DeviceArray | None = None
    ) -> None:
        """out = x W^T (+ b)."""
        operands = self._operands
        matrix = operands.matrix(linear.weight)
        source, target = operands.tensor(x), operands.tensor(out)
        if matrix.format == "dense":
            weight = operands.tensor(matrix.values)
            self._queue.call(lambda: torch.mm(source, weight.t(), out=target))
        else:
            self._multiply_tiles(source, op, linear, target, self._dtype)
        if bias is not None:
            offset = operands.tensor(bias)
            self._queue.call(lambda: target.add_(offset))

    def _multiply_tiles(self, x: torch.Tensor, op: p.Op, linear: p.Linear, out: torch.Tensor, dtype: DType) -> None:
        """out = x W^T, the weight brought to `dtype` a tile of rows at a time."""
        operands = self._operands
        matrix, tile = operands.matrix(linear.weight), operands.scratch(op, "tile")
        for first in range(0, matrix.rows, tile.shape[0]):
            part = tile[: min(tile.shape[0], matrix.rows - first)]
            weight, target = operands.tensor(part), out[:, first : first + part.shape[0]]
            if matrix.format == "dense":
                stored = operands.tensor(matrix.values[first : first + part.shape[0]])
                self._queue.call(lambda weight=weight, stored=stored: weight.copy_(stored))  # type: ignore[misc]
            else:
                dequantise(self._queue, matrix, first, dtype=dtype, out=part)
            self._queue.call(lambda weight=weight, target=target: torch.mm(x, weight.t(), out=target))  # type: ignore[misc]


def _finish_logits(logits: torch.Tensor, bias: torch.Tensor | None, scale: float, soft_cap: float | None) -> None:
    """soft_cap(scale * (logits + bias)), in place."""
    if bias is not None:
        logits.add_(bias)
    if scale != 1.0:
        logits.mul_(scale)
    if soft_cap:
        logits.div_(soft_cap).tanh_().mul_(soft_cap)
