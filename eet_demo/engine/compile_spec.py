"""A spec compiled into the step program: which ops a family's layers are, in which order."""

from __future__ import annotations

from eet_demo.engine.program import (
    Attention,
    Embed,
    Linear,
    LinearResidual,
    Norm,
    NormAdd,
    NormLmHead,
    NormMlp,
    NormQkv,
    Op,
    Program,
    Sample,
)
from eet_demo.engine.spec import ModelSpec


def build_program(spec: ModelSpec) -> Program:
    """Five dependent ops a layer between `embed` and `norm_lm_head`, `sample`; more where outputs are normed."""
    learned = "embed.positions" if "learned" in spec.positions else None
    norm = _norm(spec, "embed.norm") if spec.embedding_norm else None
    ops: list[Op] = [Embed(-1, "embed.tokens", learned, norm, spec.embedding_scale, spec.hidden_size)]
    for layer in range(spec.num_layers):
        ops += _layer(spec, layer)
    head = "embed.tokens" if spec.tied_head else "head.weight"
    linear = Linear(head, "head.bias" if spec.head_bias else None, spec.vocab_size, spec.hidden_size)
    ops.append(NormLmHead(-1, _norm(spec, "final_norm"), linear, spec.logit_scale, spec.logit_soft_cap))
    ops.append(Sample(-1, spec.vocab_size))
    return Program(spec, tuple(ops))


def _layer(spec: ModelSpec, layer: int) -> list[Op]:
    prefix = f"layers.{layer}"
    gated = spec.mlp == "gated"
    up_rows = spec.intermediate_size * (2 if gated else 1)
    qkv = _linear(f"{prefix}.qkv", spec.qkv_bias, spec.q_size + 2 * spec.kv_size, spec.hidden_size)
    out = _linear(f"{prefix}.attention_out", spec.out_bias, spec.hidden_size, spec.q_size)
    up = _linear(f"{prefix}.up", spec.mlp_bias, up_rows, spec.hidden_size)
    down = _linear(f"{prefix}.down", spec.mlp_bias, spec.hidden_size, spec.intermediate_size)
    pre = spec.norm_placement in ("pre", "both")
    qk_norms = (Norm(spec.norm, spec.norm_eps, f"{prefix}.{name}.weight", None) for name in ("q_norm", "k_norm"))
    q_norm, k_norm = qk_norms if spec.qk_norm != "none" else (None, None)
    read = [
        NormQkv(layer, _norm(spec, f"{prefix}.attention_norm") if pre else None, qkv, q_norm, k_norm, spec),
        Attention(layer, spec, spec.window(layer), spec.positions[layer] == "alibi"),
    ]
    mlp = NormMlp(layer, _norm(spec, f"{prefix}.mlp_norm") if pre else None, up, gated, spec.activation)
    add_attention = _block_output(spec, layer, "attention", out)
    add_hidden = _block_output(spec, layer, "hidden", down)
    if spec.parallel_residual:
        return [*read, mlp, *add_attention, *add_hidden]
    return [*read, *add_attention, mlp, *add_hidden]


def _block_output(spec: ModelSpec, layer: int, source: str, linear: Linear) -> list[Op]:
    """The projection that ends a block: straight into the residual, or through a norm of its own."""
    if spec.norm_placement == "pre":
        return [LinearResidual(layer, source, linear, spec.residual_scale)]
    norm = _norm(spec, f"layers.{layer}.{source}_post_norm")
    product = LinearResidual(layer, source, linear, 1.0, to_residual=False)
    return [product, NormAdd(layer, source, norm, spec.residual_scale, spec.hidden_size)]


def _norm(spec: ModelSpec, name: str) -> Norm:
    return Norm(spec.norm, spec.norm_eps, f"{name}.weight", f"{name}.bias" if spec.norm == "layer" else None)


def _linear(name: str, bias: bool, out_features: int, in_features: int) -> Linear:
    return Linear(f"{name}.weight", f"{name}.bias" if bias else None, out_features, in_features)
