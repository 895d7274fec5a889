"""Llama and the families that differ from it by a few fields: Mistral, Qwen 2 and 3, SmolLM3, Granite, OLMo-2."""

from __future__ import annotations

from typing import Any

from eet_demo.engine.families.fields import Fields, every, layer_types, rotary, windows_of
from eet_demo.engine.families.names import Names
from eet_demo.engine.spec import ModelSpec, Position
from eet_demo.errors import CheckpointError

LLAMA = Names(
    tokens="model.embed_tokens",
    layer="model.layers.{}.",
    attention_norm="input_layernorm",
    qkv=("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    q_norm="self_attn.q_norm",
    k_norm="self_attn.k_norm",
    attention_out="self_attn.o_proj",
    mlp_norm="post_attention_layernorm",
    up=("mlp.gate_proj", "mlp.up_proj"),
    down="mlp.down_proj",
    final_norm="model.norm",
)

OLMO2 = Names(
    tokens=LLAMA.tokens,
    layer=LLAMA.layer,
    qkv=LLAMA.qkv,
    q_norm=LLAMA.q_norm,
    k_norm=LLAMA.k_norm,
    attention_out=LLAMA.attention_out,
    attention_post_norm="post_attention_layernorm",
    up=LLAMA.up,
    down=LLAMA.down,
    hidden_post_norm="post_feedforward_layernorm",
    final_norm=LLAMA.final_norm,
)


def common(fields: Fields, default_theta: float = 10000.0, partial: bool = False, **changed: Any) -> dict[str, Any]:
    """The arguments of a ModelSpec that Llama and its relatives share, with those that a relative changes.

    Without `partial` rotary is whole: transformers' classes of most of them leave out `partial_rotary_factor`.
    """
    hidden, heads = fields.count("hidden_size"), fields.count("num_attention_heads")
    layers = fields.layers()
    head_dim = fields.count("head_dim", max(1, hidden // heads))
    bias = fields.flag("attention_bias")
    turned = rotary(fields, head_dim, default_theta)
    fields.refuse(a_partial_rotation=not partial and turned["rotary_dim"] != head_dim)
    return {
        "family": fields.model_type,
        "vocab_size": fields.count("vocab_size"),
        "hidden_size": hidden,
        "num_layers": layers,
        "num_heads": heads,
        "num_kv_heads": fields.count("num_key_value_heads", heads),
        "head_dim": head_dim,
        "intermediate_size": fields.count("intermediate_size"),
        "norm": "rms",
        "norm_eps": fields.number("rms_norm_eps"),
        "positions": every("rotary", layers),
        "mlp": "gated",
        "activation": fields.activation("hidden_act", "silu"),
        "tied_head": fields.flag("tie_word_embeddings"),
        "qkv_bias": bias,
        "out_bias": bias,
    } | turned | changed  # fmt: skip


def llama(fields: Fields) -> ModelSpec:
    fields.refuse(a_sliding_window=fields.flag("use_sliding_window"))
    return ModelSpec(**common(fields, mlp_bias=fields.flag("mlp_bias")))


def mistral(fields: Fields) -> ModelSpec:
    """Every layer has the window, where the config names one."""
    fields.refuse(layers_of_several_kinds=fields.has("layer_types"))
    kind = "sliding_attention" if fields.has("sliding_window") else "full_attention"
    windows = windows_of(fields, [kind] * fields.layers())
    return ModelSpec(**common(fields, windows=windows, qkv_bias=False, out_bias=False))


def qwen2(fields: Fields) -> ModelSpec:
    return ModelSpec(**common(fields, family="llama", windows=_qwen_windows(fields), qkv_bias=True, out_bias=False))


def qwen3(fields: Fields) -> ModelSpec:
    return ModelSpec(**common(fields, windows=_qwen_windows(fields), qk_norm="head"))


def _qwen_windows(fields: Fields) -> tuple[int | None, ...]:
    """With `use_sliding_window`, layers from `max_window_layers` on have the window."""
    if not fields.flag("use_sliding_window"):
        return ()
    layers, full = fields.layers(), fields.number("max_window_layers", 28)
    kinds = ["sliding_attention" if i >= full else "full_attention" for i in range(layers)]
    return windows_of(fields, layer_types(fields, layers, kinds))


def smollm3(fields: Fields) -> ModelSpec:
    """Layers whose entry of `no_rope_layers` is 0 have no positions; these have the window, where there is one."""
    layers = fields.layers()
    interval = fields.count("no_rope_layer_interval", 4)
    rotated = fields.values.get("no_rope_layers") or [int((i + 1) % interval != 0) for i in range(layers)]
    if not isinstance(rotated, list) or len(rotated) != layers:
        raise CheckpointError(f"config.json: no_rope_layers is not a list of {layers} flags, one a layer")
    windowed = fields.flag("use_sliding_window") and fields.has("sliding_window")
    kinds = ["sliding_attention" if windowed and not flag else "full_attention" for flag in rotated]
    positions: tuple[Position, ...] = tuple("rotary" if flag else "none" for flag in rotated)
    changed: dict[str, Any] = {
        "windows": windows_of(fields, layer_types(fields, layers, kinds)) if windowed else (),
        "positions": positions,
        "mlp_bias": fields.flag("mlp_bias"),
        "tied_head": fields.flag("tie_word_embeddings", True),
    }
    return ModelSpec(**common(fields, default_theta=2000000.0, **changed))


def granite(fields: Fields) -> ModelSpec:
    return ModelSpec(
        **common(
            fields,
            embedding_scale=fields.number("embedding_multiplier", 1.0),
            attention_scale=fields.positive("attention_multiplier", 1.0),
            residual_scale=fields.number("residual_multiplier", 1.0),
            logit_scale=1.0 / fields.positive("logits_scaling", 1.0),
            mlp_bias=fields.flag("mlp_bias"),
        )
    )


def olmo2(fields: Fields) -> ModelSpec:
    return ModelSpec(**common(fields, norm_placement="post", qk_norm="full"))
