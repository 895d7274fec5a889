"""The step program as the flat array of records that the C++ walks: names become addresses, once."""

from __future__ import annotations

from functools import singledispatchmethod

from eet_demo.engine import program as p
from eet_demo.engine.executors.cpu import records
from eet_demo.engine.executors.cpu.layout import CpuLayout
from eet_demo.engine.plan import Plan
from eet_demo.engine.spec import ModelSpec


class Constants:
    """What ops read beside the arena: rotary frequencies of every layer's kind, ALiBi's slopes."""

    def __init__(self, spec: ModelSpec, max_context: int) -> None:
        layers = range(spec.num_layers)
        windowed = [spec.local_rope_theta is not None and spec.window(layer) is not None for layer in layers]
        tables = {kind: spec.rotary_frequencies(max_context, windowed.index(kind)) for kind in set(windowed)}
        self._frequencies = [tables[windowed[layer]] if spec.positions[layer] == "rotary" else None for layer in layers]
        self._slopes = spec.alibi_slopes()

    def frequencies(self, layer: int) -> int | None:
        """Address of the layer's rotary frequencies; null where nothing turns."""
        table = self._frequencies[layer]
        return None if table is None else table.ctypes.data

    @property
    def slopes(self) -> int:
        """Address of ALiBi's slopes."""
        return self._slopes.ctypes.data


def lower_model(spec: ModelSpec, plan: Plan) -> records.Model:
    return records.Model(
        vocab_size=spec.vocab_size,
        hidden_size=spec.hidden_size,
        num_heads=spec.num_heads,
        num_kv_heads=spec.num_kv_heads,
        head_dim=spec.head_dim,
        rotary_dim=spec.rotary_dim,
        max_batch=plan.limits.max_batch,
        max_context=plan.limits.max_context,
        attention_scale=spec.scale,
        attention_soft_cap=spec.attention_soft_cap or 0.0,
    )


class Lowering:
    """Turns ops into records, given where the arena starts, and how many bytes an activation becomes (program.h)."""

    def __init__(
        self, program: p.Program, plan: Plan, layout: CpuLayout, constants: Constants, base: int, pieces: int
    ) -> None:
        self._program, self._plan, self._layout, self._base, self._pieces = program, plan, layout, base, pieces
        self._constants = constants

    def ops(self) -> list[records.Op]:
        return [self._lower(op) for op in self._program.ops]

    def _lower(self, op: p.Op) -> records.Op:
        record = self._record(op)
        record.stem = records.STEMS.index(op.stem)
        scratch = f"scratch.{op.name}"
        if scratch in self._plan.blocks:
            start = self._base + self._plan.blocks[scratch].offset
            record.scratch = start
            record.activations = start + self._layout.float_scratch_bytes(op, self._plan.limits)
        return record

    def _format(self, weight: str) -> int:
        return records.FORMATS.index(self._layout.format_of(weight))

    def _address(self, name: str | None) -> int | None:
        """Address of a block; null for no name."""
        return self._base + self._plan.blocks[name].offset if name else None

    def _norm(self, record: records.Op, norm: p.Norm | None) -> records.Op:
        if norm is None:
            return record
        record.norm_kind, record.norm_eps = records.NORMS.index(norm.kind), norm.eps
        record.norm_weight, record.norm_bias = self._address(norm.weight), self._address(norm.bias)
        return record

    def _linear(self, linear: p.Linear, **fields: float | int | None) -> records.Op:
        return records.Op(
            weight=self._address(linear.weight),
            bias=self._address(linear.bias),
            in_features=linear.in_features,
            out_features=linear.out_features,
            format=self._format(linear.weight),
            pieces=self._pieces,
            **fields,
        )

    def _cache(self, layer: int) -> int:
        spec, limits = self._program.spec, self._plan.limits
        per_layer = 2 * limits.max_batch * spec.kv_size * limits.max_context
        return self._base + self._plan.blocks["kv_cache"].offset + 4 * per_layer * layer

    @singledispatchmethod
    def _record(self, op: p.Op) -> records.Op:
        """What is the op's own: where it reads and writes, and its numbers."""
        raise TypeError(f"kernels/cpu has no {op.stem}")

    @_record.register
    def _embed(self, op: p.Embed) -> records.Op:
        record = records.Op(
            weight=self._address(op.tokens),
            format=self._format(op.tokens),
            positions=self._address(op.positions),
            scale=op.scale,
            target=self._address(p.RESIDUAL),
        )
        return self._norm(record, op.norm)

    @_record.register
    def _norm_qkv(self, op: p.NormQkv) -> records.Op:
        record = self._linear(
            op.qkv,
            source=self._address(p.RESIDUAL),
            target=self._address(op.writes[0]),
            cache=self._cache(op.layer),
            frequencies=self._constants.frequencies(op.layer),
            qk_norm=records.QK_NORMS.index(op.spec.qk_norm),
        )
        if op.q_norm is not None and op.k_norm is not None:
            record.norm_kind, record.norm_eps = records.NORMS.index(op.q_norm.kind), op.q_norm.eps
            record.q_norm, record.k_norm = self._address(op.q_norm.weight), self._address(op.k_norm.weight)
        return self._norm(record, op.norm)

    @_record.register
    def _attention(self, op: p.Attention) -> records.Op:
        return records.Op(
            source=self._address(op.reads[0]),
            target=self._address(op.writes[0]),
            cache=self._cache(op.layer),
            window=op.window or 0,
            slopes=self._constants.slopes if op.alibi else None,
        )

    @_record.register
    def _linear_residual(self, op: p.LinearResidual) -> records.Op:
        return self._linear(
            op.out,
            source=self._address(op.reads[0]),
            target=self._address(op.writes[0]),
            scale=op.scale,
            adds=int(op.to_residual),
        )

    @_record.register
    def _norm_add(self, op: p.NormAdd) -> records.Op:
        record = records.Op(
            source=self._address(op.reads[0]),
            target=self._address(p.RESIDUAL),
            out_features=op.hidden_size,
            scale=op.scale,
        )
        return self._norm(record, op.norm)

    @_record.register
    def _norm_mlp(self, op: p.NormMlp) -> records.Op:
        record = self._linear(
            op.up,
            source=self._address(p.RESIDUAL),
            target=self._address(op.writes[0]),
            gated=int(op.gated),
            activation=records.ACTIVATIONS.index(op.activation),
        )
        return self._norm(record, op.norm)

    @_record.register
    def _norm_lm_head(self, op: p.NormLmHead) -> records.Op:
        record = self._linear(
            op.head,
            source=self._address(p.RESIDUAL),
            target=self._address(p.LOGITS),
            scale=op.scale,
            soft_cap=op.soft_cap or 0.0,
        )
        return self._norm(record, op.norm)

    @_record.register
    def _sample(self, op: p.Sample) -> records.Op:
        return records.Op(source=self._address(p.LOGITS), out_features=op.vocab_size)
