"""GPT-2, with and without its LayerNorms."""

from __future__ import annotations

from eet_demo.engine.families.fields import Fields, every
from eet_demo.engine.families.names import Names
from eet_demo.engine.spec import ModelSpec

GPT2 = Names(
    base="transformer",
    tokens="wte",
    positions="wpe",
    layer="h.{}.",
    attention_norm="ln_1",
    qkv=("attn.c_attn",),
    attention_out="attn.c_proj",
    mlp_norm="ln_2",
    up=("mlp.c_fc",),
    down="mlp.c_proj",
    final_norm="ln_f",
    transposed=True,
)


def gpt2(fields: Fields) -> ModelSpec:
    """GPT-2s trained to do without LayerNorm (arXiv 2507.02559) keep the class: an eps of about 1e12 makes its
    deviation a constant, which the weights, scaled up by its root, cancel. What is left is to subtract the mean. Norms
    are computed and their weights stored in float32 whatever the dtype, which has room for both numbers.
    """
    for flag in ("scale_attn_by_inverse_layer_idx", "reorder_and_upcast_attn"):
        fields.refuse(**{flag: fields.flag(flag)})
    hidden, heads, layers = fields.count("n_embd"), fields.count("n_head"), fields.layers("n_layer")
    return ModelSpec(
        family="gpt2",
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
        positions=every("learned", layers),
        mlp="plain",
        activation=fields.activation("activation_function"),
        tied_head=fields.flag("tie_word_embeddings"),
        attention_scale=0.0 if fields.flag("scale_attn_weights") else 1.0,
        qkv_bias=True,
        out_bias=True,
        mlp_bias=True,
    )
