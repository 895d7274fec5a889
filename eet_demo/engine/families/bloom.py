"""BLOOM: ALiBi, a normalised embedding, and a fused projection that holds q, k and v of one head after another."""

from __future__ import annotations

from eet_demo.engine.families.fields import Fields, every
from eet_demo.engine.families.names import Names
from eet_demo.engine.spec import ModelSpec

BLOOM = Names(
    base="transformer",
    tokens="word_embeddings",
    embedding_norm="word_embeddings_layernorm",
    layer="h.{}.",
    attention_norm="input_layernorm",
    qkv=("self_attention.query_key_value",),
    fused_heads=True,
    attention_out="self_attention.dense",
    mlp_norm="post_attention_layernorm",
    up=("mlp.dense_h_to_4h",),
    down="mlp.dense_4h_to_h",
    final_norm="ln_f",
)

TRAINED_POSITIONS = 2048
"""ALiBi has no last position; where the config does not name the trained context, it is this (arXiv 2211.05100)."""


def bloom(fields: Fields) -> ModelSpec:
    """Early configs have `n_embed`, which counts."""
    hidden = fields.count("n_embed") if fields.has("n_embed") else fields.count("hidden_size")
    layers, heads = fields.layers("n_layer"), fields.count("n_head")
    fields.refuse(
        a_residual_taken_after_the_norm=fields.flag("apply_residual_connection_post_layernorm"),
    )
    return ModelSpec(
        family="bloom",
        vocab_size=fields.count("vocab_size"),
        hidden_size=hidden,
        num_layers=layers,
        num_heads=heads,
        num_kv_heads=heads,
        head_dim=hidden // heads,
        intermediate_size=4 * hidden,
        max_positions=fields.count("seq_length", TRAINED_POSITIONS),
        norm="layer",
        norm_eps=fields.number("layer_norm_epsilon"),
        positions=every("alibi", layers),
        mlp="plain",
        activation="gelu_tanh",
        tied_head=fields.flag("tie_word_embeddings"),
        embedding_norm=True,
        qkv_bias=True,
        out_bias=True,
        mlp_bias=True,
    )
