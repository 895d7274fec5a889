"""Names of the program as arrays on the device: weights, buffers, the KV cache, scratch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from eet_demo.engine import program as p
from eet_demo.engine.executors.cuda.arrays import DeviceArray
from eet_demo.engine.executors.cuda.launchers.matrices import BLOCK_VALUES, Matrix, WeightFormat
from eet_demo.engine.executors.cuda.launchers.norms import NO_NORM, NormWeights, QkNorm
from eet_demo.engine.executors.cuda.runtime.arena import Arena
from eet_demo.engine.executors.cuda.runtime.layout import CudaLayout, aligned, plane_bytes, vector_dtype
from eet_demo.engine.families import weights_of
from eet_demo.engine.plan import Plan
from eet_demo.errors import UnsupportedError


class Operands:
    """Resolves names once; every array keeps its address for the executor's life."""

    def __init__(
        self, program: p.Program, plan: Plan, layout: CudaLayout, formats: Mapping[str, WeightFormat], arena: Arena
    ) -> None:
        self.program, self.spec, self.arena, self.dtype = program, program.spec, arena, layout.dtype
        self._plan, self._layout, self._formats = plan, layout, formats
        self._weights = {weight.name: weight for weight in weights_of(program.spec)}
        self._scratch = {op.name: self._scratch_of(op) for op in program.ops}

    def matrix(self, name: str) -> Matrix:
        weight = self._weights[name]
        format = self._formats[name]
        rows, columns = weight.rows, weight.columns
        if format == "dense":
            return Matrix(format, rows, columns, self.arena.array(name, (rows, columns), self.dtype))
        halves = 1 if format == "q8_0" else 2
        values = self.arena.array(name, (rows, columns // halves), "int8" if format == "q8_0" else "uint8")
        blocks = columns // BLOCK_VALUES
        shape = (rows, blocks, 2) if format == "q4_1" else (rows, blocks)
        offset = aligned(plane_bytes(format, rows, columns)[0])
        return Matrix(format, rows, columns, values, self.arena.array(name, shape, "float16", offset))

    def vector(self, name: str | None) -> DeviceArray | None:
        """A bias or a norm's weight; None for no name."""
        if name is None:
            return None
        return self.arena.array(name, (self._weights[name].rows,), vector_dtype(name, self.dtype))

    def table(self, name: str | None) -> DeviceArray | None:
        """The learned positions."""
        if name is None:
            return None
        weight = self._weights[name]
        return self.arena.array(name, (weight.rows, weight.columns), self.dtype)

    def norm(self, norm: p.Norm | None) -> NormWeights:
        if norm is None:
            return NO_NORM
        weight, bias = self.vector(norm.weight), self.vector(norm.bias)
        return NormWeights(norm.kind, weight, bias, norm.eps)

    def qk_norm(self, op: p.NormQkv) -> QkNorm | None:
        if op.q_norm is None or op.k_norm is None:
            return None
        q, k = self.norm(op.q_norm), self.norm(op.k_norm)
        assert q.weight, "every norm of a spec has a weight"
        assert k.weight, "every norm of a spec has a weight"
        whole = self.spec.qk_norm == "full"
        return QkNorm(q.kind, whole, q.weight, k.weight, q.bias, k.bias, q.eps)

    def cache(self, layer: int) -> tuple[DeviceArray, DeviceArray]:
        """Keys and values of a layer, (max_batch, num_kv_heads, max_context, head_dim) each."""
        limits, spec = self._plan.limits, self.spec
        shape = (limits.max_batch, spec.num_kv_heads, limits.max_context, spec.head_dim)
        whole = self.arena.array("kv_cache", (spec.num_layers, 2, *shape), self.dtype)
        return whole[layer][0], whole[layer][1]

    def buffer(self, name: str, rows: int) -> DeviceArray:
        wide = name in (p.RESIDUAL, p.LOGITS)
        return self.arena.array(name, (rows, self.program.buffer_width(name)), "float32" if wide else self.dtype)

    def scratch(self, op: p.Op, name: str, rows: int | None = None) -> DeviceArray:
        """Scratch of `op`; its leading `rows` where given."""
        array = self._scratch[op.name][name]
        return array if rows is None else array[:rows]

    def frequencies(self, layer: int) -> DeviceArray | None:
        """Radians a position of the layer's rotary pairs; None for a layer without rotary."""
        spec = self.spec
        if spec.positions[layer] != "rotary":
            return None
        local = spec.local_rope_theta is not None and spec.window(layer) is not None
        return self.arena.state["local_frequencies" if local else "frequencies"]

    def slopes(self, op: p.Attention) -> DeviceArray | None:
        return self.arena.state["slopes"] if op.alibi else None

    def tensor(self, array: DeviceArray) -> Any:
        return self.arena.tensor(array)

    def _scratch_of(self, op: p.Op) -> dict[str, DeviceArray]:
        entries = self._layout.scratch(op, self._plan.limits)
        return self.arena.fields(f"scratch.{op.name}", entries) if entries else {}


def check_supported(program: p.Program) -> None:
    """Raises UnsupportedError naming the first feature of the model that the kernels lack."""
    spec = program.spec
    if spec.qk_norm == "heads":
        raise UnsupportedError(
            f"{spec.family}: a query/key norm with weights of its own for each head is not supported by the CUDA "
            "kernels; device='cpu' and device='reference' have it"
        )
