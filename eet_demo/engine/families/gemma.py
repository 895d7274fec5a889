"""Gemma 2 and the text models of Gemma 3: norms around both blocks, stored as weight - 1, and scaled embeddings."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from eet_demo.engine.families.fields import Fields, layer_types, rotary_scaling, windows_of
from eet_demo.engine.families.llama import LLAMA, common
from eet_demo.engine.spec import ModelSpec

GEMMA = replace(
    LLAMA,
    attention_post_norm="post_attention_layernorm",
    mlp_norm="pre_feedforward_layernorm",
    hidden_post_norm="post_feedforward_layernorm",
    norm_offset=1.0,
)


def _gemma(fields: Fields, period: int, **changed: Any) -> ModelSpec:
    """Of `period` layers the last attends to everything, the others to a window, unless the config lists them."""
    layers = fields.layers()
    kinds = ["sliding_attention" if (i + 1) % period else "full_attention" for i in range(layers)]
    given: dict[str, Any] = {
        "norm_placement": "both",
        "windows": windows_of(fields, layer_types(fields, layers, kinds)),
        "activation": fields.activation("hidden_activation", "gelu_pytorch_tanh"),
        "head_dim": fields.count("head_dim", 256),
        "embedding_scale": float(np.float32(fields.count("hidden_size") ** 0.5)),
        "attention_scale": fields.positive("query_pre_attn_scalar", 256.0) ** -0.5,
        "tied_head": fields.flag("tie_word_embeddings", True),
    }
    return ModelSpec(**common(fields, **given, **changed))


def gemma2(fields: Fields) -> ModelSpec:
    caps = {"attention_soft_cap": "attn_logit_softcapping", "logit_soft_cap": "final_logit_softcapping"}
    return _gemma(fields, 2, **{name: fields.optional(field) for name, field in caps.items()})


def gemma3(fields: Fields) -> ModelSpec:
    """Layers with a window rotate by a base of their own; scaling, where there is one, is for the others.

    transformers 5 writes one set of rotary parameters for each kind of layer; before there were `rope_theta`,
    `rope_local_base_freq` and `rope_scaling`.
    """
    fields.refuse(a_soft_cap_on_scores=fields.has("attn_logit_softcapping"))
    period = fields.count("sliding_window_pattern", fields.count("_sliding_window_pattern", 6))
    by_kind = fields.object("rope_parameters")
    local, wide = by_kind.object("sliding_attention"), by_kind.object("full_attention")
    if not by_kind.values:
        wide = fields.object("rope_scaling")
    head_dim = fields.count("head_dim", 256)
    for rope in (local, wide):
        fields.refuse(a_partial_rotation=rope.number("partial_rotary_factor", 1.0) != 1.0)
    fields.refuse(rotary_scaling_of_layers_with_a_window=rotary_scaling(local, fields, head_dim) is not None)
    plain = Fields({**fields.values, "rope_parameters": None, "rope_scaling": None}, fields.model_type)
    return _gemma(
        plain,
        period,
        qk_norm="head",
        rope_theta=wide.positive("rope_theta", fields.positive("rope_theta", 1000000.0), above=1.0),
        rope_scaling=rotary_scaling(wide, fields, head_dim),
        local_rope_theta=local.positive("rope_theta", fields.positive("rope_local_base_freq", 10000.0), above=1.0),
        logit_soft_cap=fields.optional("final_logit_softcapping"),
    )
