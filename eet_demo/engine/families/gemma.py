"""Gemma 2 and the text models of Gemma 3: norms around both blocks, stored as weight - 1, and scaled embeddings."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from eet_demo.engine.families.fields import Fields, layer_types, turned, windows_of
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
    fields.refuse_uneven_heads()
    layers = fields.layers()
    kinds = ["sliding_attention" if (i + 1) % period else "full_attention" for i in range(layers)]
    given: dict[str, Any] = {
        "norm_placement": "both",
        "windows": windows_of(fields, layer_types(fields, layers, kinds)),
        "embedding_scale": float(np.float32(fields.count("hidden_size") ** 0.5)),
        "attention_scale": fields.positive("query_pre_attn_scalar") ** -0.5,
    }
    return ModelSpec(**common(fields, activation="hidden_activation", **given, **changed))


def gemma2(fields: Fields) -> ModelSpec:
    caps = {"attention_soft_cap": "attn_logit_softcapping", "logit_soft_cap": "final_logit_softcapping"}
    return _gemma(fields, 2, **{name: fields.optional(field) for name, field in caps.items()})


def gemma3(fields: Fields) -> ModelSpec:
    """Layers with a window rotate by a base of their own; scaling, where there is one, is for the others.

    transformers 5 writes one set of rotary parameters for each kind of layer; before there were `rope_theta`,
    `rope_local_base_freq` and `rope_scaling`.
    """
    fields.refuse(a_soft_cap_on_scores=fields.has("attn_logit_softcapping"))
    given = fields.values
    by_kind, scaling = fields.object("rope_parameters"), fields.object("rope_scaling").values
    fields.refuse(rope_scaling_beside_rope_parameters=fields.has("rope_scaling") and bool(by_kind.values))
    local = _of_kind(by_kind, "sliding_attention", rope_theta=given.get("rope_local_base_freq", 10000.0))
    wide = _of_kind(by_kind, "full_attention", rope_theta=given.get("rope_theta", 1000000.0))
    if scaling:
        wide = Fields({"rope_type": "default", **wide.values, **scaling}, fields.model_type)
    plain = Fields({n: v for n, v in given.items() if n != "original_max_position_embeddings"}, fields.model_type)
    head_dim = fields.count("head_dim", max(1, fields.count("hidden_size") // fields.count("num_attention_heads")))
    near, far = turned(plain, local, head_dim), turned(plain, wide, head_dim)
    fields.refuse(
        a_partial_rotation=not near["rotary_dim"] == far["rotary_dim"] == head_dim,
        rotary_scaling_of_layers_with_a_window=near["rope_scaling"] is not None,
    )
    period = Fields({"sliding_window_pattern": 6, **given}, fields.model_type).count("sliding_window_pattern")
    caps = {"logit_soft_cap": fields.optional("final_logit_softcapping")}
    return _gemma(fields, period, qk_norm="head", local_rope_theta=near["rope_theta"], **far, **caps)


def _of_kind(by_kind: Fields, kind: str, rope_theta: Any) -> Fields:
    """The rotary parameters of one kind of layers."""
    settled = {"rope_theta": rope_theta, "partial_rotary_factor": 1.0, **by_kind.object(kind).values}
    return Fields(settled, by_kind.model_type)
