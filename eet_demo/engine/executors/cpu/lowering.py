"""The step program as the flat array of records that the C++ walks: names become addresses, once."""

from __future__ import annotations

from eet_demo.engine import program as p
from eet_demo.engine.executors.cpu import records
from eet_demo.engine.executors.cpu.layout import CpuLayout
from eet_demo.engine.plan import Plan
from eet_demo.engine.spec import ModelSpec
from eet_demo.errors import UnsupportedError


def check_supported(spec: ModelSpec) -> None:
    """Raises UnsupportedError naming the first feature of `spec` that the CPU executor lacks."""
    lacking = {
        "query/key norms": spec.qk_norm != "none",
        "norms after a block": spec.norm_placement != "pre",
        "ALiBi positions": "alibi" in spec.positions,
        "a normalised embedding": spec.embedding_norm,
        "a bias of the head": spec.head_bias,
        "rotary bases of their own for layers with a window": spec.local_rope_theta is not None,
    }
    for feature, used in lacking.items():
        if used:
            raise UnsupportedError(f"{spec.family}: device 'cpu' does not support {feature}; device='reference' does")


def lower_model(spec: ModelSpec, plan: Plan, frequencies: int) -> records.Model:
    """`frequencies` is the address of the rotary frequencies."""
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
        frequencies=frequencies,
    )


class Lowering:
    """Turns ops into records, given where the arena starts, and how many bytes an activation becomes (program.h)."""

    def __init__(self, program: p.Program, plan: Plan, layout: CpuLayout, base: int, pieces: int) -> None:
        self._program, self._plan, self._layout, self._base, self._pieces = program, plan, layout, base, pieces

    def ops(self) -> list[records.Op]:
        return [self._lower(op) for op in self._program.ops]

    def _lower(self, op: p.Op) -> records.Op:
        record: records.Op = getattr(self, f"_{op.stem}")(op)
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
        assert norm is not None, "check_supported refuses blocks without a norm before them"
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

    def _embed(self, op: p.Embed) -> records.Op:
        return records.Op(
            weight=self._address(op.tokens),
            format=self._format(op.tokens),
            positions=self._address(op.positions),
            scale=op.scale,
            target=self._address(p.RESIDUAL),
        )

    def _norm_qkv(self, op: p.NormQkv) -> records.Op:
        record = self._linear(
            op.qkv,
            source=self._address(p.RESIDUAL),
            target=self._address(op.writes[0]),
            cache=self._cache(op.layer),
            rotary=int(op.spec.positions[op.layer] == "rotary"),
        )
        return self._norm(record, op.norm)

    def _attention(self, op: p.Attention) -> records.Op:
        return records.Op(
            source=self._address(op.reads[0]),
            target=self._address(op.writes[0]),
            cache=self._cache(op.layer),
            window=op.window or 0,
        )

    def _linear_residual(self, op: p.LinearResidual) -> records.Op:
        return self._linear(
            op.out,
            source=self._address(op.reads[0]),
            target=self._address(op.writes[0]),
            scale=op.scale,
        )

    def _norm_mlp(self, op: p.NormMlp) -> records.Op:
        record = self._linear(
            op.up,
            source=self._address(p.RESIDUAL),
            target=self._address(op.writes[0]),
            gated=int(op.gated),
            activation=records.ACTIVATIONS.index(op.activation),
        )
        return self._norm(record, op.norm)

    def _norm_lm_head(self, op: p.NormLmHead) -> records.Op:
        record = self._linear(
            op.head,
            source=self._address(p.RESIDUAL),
            target=self._address(p.LOGITS),
            scale=op.scale,
            soft_cap=op.soft_cap or 0.0,
        )
        return self._norm(record, op.norm)

    def _sample(self, op: p.Sample) -> records.Op:
        return records.Op(source=self._address(p.LOGITS), out_features=op.vocab_size)
