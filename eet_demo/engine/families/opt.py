"""OPT, in the sizes that normalise a block's input (all but 350m)."""

from __future__ import annotations

from eet_demo.engine.families.fields import Fields, every
from eet_demo.engine.families.names import Names
from eet_demo.engine.spec import ModelSpec

OPT = Names(
    tokens="decoder.embed_tokens",
    positions="decoder.embed_positions",
    position_offset=2,
    layer="decoder.layers.{}.",
    attention_norm="self_attn_layer_norm",
    qkv=("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    attention_out="self_attn.out_proj",
    mlp_norm="final_layer_norm",
    up=("fc1",),
    down="fc2",
    final_norm="decoder.final_layer_norm",
)

LAYER_NORM_EPS = 1e-5
"""torch's own, which OPT's class does not change and its config does not name."""


def opt(fields: Fields) -> ModelSpec:
    hidden, heads, layers = fields.count("hidden_size"), fields.count("num_attention_heads"), fields.layers()
    fields.refuse(
        normalising_a_block_after_its_residual=not fields.flag("do_layer_norm_before"),
        a_model_without_a_final_norm=fields.flag("_remove_final_layer_norm"),
        norms_without_weights=not fields.flag("layer_norm_elementwise_affine"),
        embeddings_of_another_width=fields.count("word_embed_proj_dim", hidden) != hidden,
    )
    bias = fields.flag("enable_bias")
    return ModelSpec(
        family="opt",
        vocab_size=fields.count("vocab_size"),
        hidden_size=hidden,
        num_layers=layers,
        num_heads=heads,
        num_kv_heads=heads,
        head_dim=hidden // heads,
        intermediate_size=fields.count("ffn_dim"),
        max_positions=fields.count("max_position_embeddings"),
        norm="layer",
        norm_eps=LAYER_NORM_EPS,
        positions=every("learned", layers),
        mlp="plain",
        activation=fields.activation("activation_function"),
        tied_head=fields.flag("tie_word_embeddings"),
        qkv_bias=bias,
        out_bias=bias,
        mlp_bias=bias,
    )
