"""Llama and the families that differ from it by a few fields: Mistral, Qwen 2 and 3, SmolLM3, Granite, OLMo-2."""

from __future__ import annotations

from typing import Any

from eet_demo.engine.families.fields import Fields, every, layer_types, one_window, rotary, windows_of
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


def common(
    fields: Fields, default_theta: float = 10000.0, activation: str = "hidden_act", **changed: Any
) -> dict[str, Any]:
    """The arguments of a ModelSpec that Llama and its relatives share, with those that a relative changes.

    Rotary is whole: transformers' classes of most of them leave out `partial_rotary_factor`.
    """
    hidden, heads = fields.count("hidden_size"), fields.count("num_attention_heads")
    layers = fields.layers()
    head_dim = fields.count("head_dim", max(1, hidden // heads))
    bias = fields.flag("attention_bias", False)
    if "rotary_dim" not in changed:
        changed = rotary(fields, head_dim, default_theta) | changed
        fields.refuse(a_partial_rotation=changed["rotary_dim"] != head_dim)
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
        "activation": fields.activation(activation),
        "tied_head": fields.flag("tie_word_embeddings"),
        "qkv_bias": bias,
        "out_bias": bias,
    } | changed  # fmt: skip


def llama(fields: Fields) -> ModelSpec:
    fields.refuse_uneven_heads()
    fields.refuse(a_sliding_window=fields.flag("use_sliding_window", False))
    return ModelSpec(**common(fields, mlp_bias=fields.flag("mlp_bias")))


def mistral(fields: Fields) -> ModelSpec:
    """Every layer has the window, unless the config's is null."""
    return ModelSpec(**common(fields, windows=one_window(fields), qkv_bias=False, out_bias=False))


def qwen2(fields: Fields) -> ModelSpec:
    return ModelSpec(**common(fields, family="llama", windows=_qwen_windows(fields), qkv_bias=True, out_bias=False))


def qwen3(fields: Fields) -> ModelSpec:
    return ModelSpec(**common(fields, windows=_qwen_windows(fields), qk_norm="head"))


def _qwen_windows(fields: Fields) -> tuple[int | None, ...]:
    """With `use_sliding_window`, layers from `max_window_layers` on have the window, unless the config lists kinds."""
    layers, full = fields.layers(), fields.number("max_window_layers")
    used = fields.flag("use_sliding_window")
    windowed = used and fields.has("sliding_window")
    kinds = ["sliding_attention" if windowed and i >= full else "full_attention" for i in range(layers)]
    settled = Fields(
        {**fields.values, "sliding_window": fields.values["sliding_window"] if used else None}, fields.model_type
    )
    return windows_of(settled, layer_types(fields, layers, kinds))


def smollm3(fields: Fields) -> ModelSpec:
    """Layers whose entry of `no_rope_layers` is 0 have no positions; these have the window, where there is one."""
    layers = fields.layers()
    interval = fields.count("no_rope_layer_interval")
    rotated = fields.values["no_rope_layers"]
    if rotated is None:
        rotated = [int((i + 1) % interval != 0) for i in range(layers)]
    if not isinstance(rotated, list) or len(rotated) != layers:
        raise CheckpointError(f"config.json: no_rope_layers is not a list of {layers} flags, one a layer")
    used = fields.flag("use_sliding_window")
    windowed = used and fields.has("sliding_window")
    kinds = layer_types(
        fields, layers, ["sliding_attention" if windowed and not flag else "full_attention" for flag in rotated]
    )
    fields.refuse(layers_with_a_window_that_is_not_used="sliding_attention" in kinds and not used)
    positions: tuple[Position, ...] = tuple("rotary" if flag else "none" for flag in rotated)
    changed: dict[str, Any] = {
        "windows": windows_of(fields, kinds),
        "positions": positions,
        "mlp_bias": fields.flag("mlp_bias"),
    }
    return ModelSpec(**common(fields, default_theta=2000000.0, **changed))


def granite(fields: Fields) -> ModelSpec:
    return ModelSpec(
        **common(
            fields,
            embedding_scale=fields.number("embedding_multiplier"),
            attention_scale=fields.positive("attention_multiplier"),
            residual_scale=fields.number("residual_multiplier"),
            logit_scale=1.0 / fields.positive("logits_scaling"),
            mlp_bias=fields.flag("mlp_bias"),
        )
    )


def olmo2(fields: Fields) -> ModelSpec:
    return ModelSpec(**common(fields, norm_placement="post", qk_norm="full"))
