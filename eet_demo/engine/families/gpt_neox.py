"""GPT-NeoX (Pythia), GPT-J and StableLM: LayerNorm, partial rotary, attention and MLP side by side or in turn."""

from __future__ import annotations

from dataclasses import replace

from eet_demo.engine.families.fields import Fields, every, rope_of, rotary, turned
from eet_demo.engine.families.llama import LLAMA
from eet_demo.engine.families.names import Names
from eet_demo.engine.spec import ModelSpec

GPT_NEOX = Names(
    base="gpt_neox",
    tokens="gpt_neox.embed_in",
    layer="gpt_neox.layers.{}.",
    attention_norm="input_layernorm",
    qkv=("attention.query_key_value",),
    fused_heads=True,
    attention_out="attention.dense",
    mlp_norm="post_attention_layernorm",
    up=("mlp.dense_h_to_4h",),
    down="mlp.dense_4h_to_h",
    final_norm="gpt_neox.final_layer_norm",
    old_head="embed_out",
)

GPTJ = Names(
    base="transformer",
    tokens="wte",
    layer="h.{}.",
    attention_norm="ln_1",
    qkv=("attn.q_proj", "attn.k_proj", "attn.v_proj"),
    attention_out="attn.out_proj",
    mlp_norm="ln_1",
    up=("mlp.fc_in",),
    down="mlp.fc_out",
    final_norm="ln_f",
)

STABLELM = replace(
    LLAMA, q_norm="self_attn.q_layernorm.norms.{}", k_norm="self_attn.k_layernorm.norms.{}"
)  # fmt: skip
STABLELM_PARALLEL = replace(STABLELM, mlp_norm=STABLELM.attention_norm)


def gpt_neox(fields: Fields) -> ModelSpec:
    """Before transformers 5 the rotary fields were `rotary_pct` and `rotary_emb_base`."""
    fields.refuse_uneven_heads()
    hidden, heads = fields.count("hidden_size"), fields.count("num_attention_heads")
    layers, bias = fields.layers(), fields.flag("attention_bias")
    given = fields.values
    theta, partial = given.get("rotary_emb_base", 10000.0), given.get("rotary_pct", 0.25)
    rope = rope_of(fields, rope_theta=theta, partial_rotary_factor=partial)
    return ModelSpec(
        family="gpt_neox",
        vocab_size=fields.count("vocab_size"),
        hidden_size=hidden,
        num_layers=layers,
        num_heads=heads,
        num_kv_heads=heads,
        head_dim=hidden // heads,
        intermediate_size=fields.count("intermediate_size"),
        norm="layer",
        norm_eps=fields.number("layer_norm_eps"),
        positions=every("rotary", layers),
        mlp="plain",
        activation=fields.activation("hidden_act"),
        tied_head=fields.flag("tie_word_embeddings"),
        parallel_residual=fields.flag("use_parallel_residual"),
        qkv_bias=bias,
        out_bias=bias,
        mlp_bias=True,
        **turned(fields, rope, hidden // heads),
    )


def gptj(fields: Fields) -> ModelSpec:
    """One norm for both blocks of a layer; every other element of a head turns with its neighbour."""
    hidden, heads, layers = fields.count("n_embd"), fields.count("n_head"), fields.layers("n_layer")
    return ModelSpec(
        family="gptj",
        vocab_size=fields.count("vocab_size"),
        hidden_size=hidden,
        num_layers=layers,
        num_heads=heads,
        num_kv_heads=heads,
        head_dim=hidden // heads,
        intermediate_size=fields.count("n_inner", 4 * hidden),
        max_positions=fields.count("n_positions"),
        norm="layer",
        norm_eps=fields.number("layer_norm_epsilon"),
        positions=every("rotary", layers),
        rotary_dim=fields.count("rotary_dim"),
        rope_pairs="interleaved",
        mlp="plain",
        activation=fields.activation("activation_function"),
        tied_head=fields.flag("tie_word_embeddings"),
        parallel_residual=True,
        mlp_bias=True,
        head_bias=True,
    )


def stablelm(fields: Fields) -> ModelSpec:
    hidden, heads = fields.count("hidden_size"), fields.count("num_attention_heads")
    layers = fields.layers()
    return ModelSpec(
        family="stablelm",
        vocab_size=fields.count("vocab_size"),
        hidden_size=hidden,
        num_layers=layers,
        num_heads=heads,
        num_kv_heads=fields.count("num_key_value_heads", heads),
        head_dim=hidden // heads,
        intermediate_size=fields.count("intermediate_size"),
        norm="layer",
        norm_eps=fields.number("layer_norm_eps"),
        positions=every("rotary", layers),
        mlp="gated",
        activation=fields.activation("hidden_act"),
        tied_head=fields.flag("tie_word_embeddings"),
        qk_norm="heads" if fields.flag("qk_layernorm") else "none",
        parallel_residual=fields.flag("use_parallel_residual"),
        qkv_bias=fields.flag("use_qkv_bias"),
        **rotary(fields, hidden // heads, partial=0.25),
    )
