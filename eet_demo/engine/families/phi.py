"""Phi-3: Llama with fused projections and LongRoPE."""

from __future__ import annotations

from dataclasses import replace

from eet_demo.engine.families.fields import Fields, rotary, windows_of
from eet_demo.engine.families.llama import LLAMA, common
from eet_demo.engine.spec import ModelSpec

PHI3 = replace(LLAMA, qkv=("self_attn.qkv_proj",), up=("mlp.gate_up_proj",))


def phi3(fields: Fields) -> ModelSpec:
    """Early configs call LongRoPE "su" or, wrongly, "yarn"."""
    given = {**fields.object("rope_scaling").values, **fields.object("rope_parameters").values}
    if "yarn" in (given.get("rope_type"), given.get("type")):
        given |= {"rope_type": "longrope"}
    fraction = Fields(given, fields.model_type).positive(
        "partial_rotary_factor", fields.positive("partial_rotary_factor", 1.0)
    )
    given["partial_rotary_factor"] = fraction
    read = Fields({**fields.values, "rope_scaling": None, "rope_parameters": given}, fields.model_type)
    kind = "sliding_attention" if fields.has("sliding_window") else "full_attention"
    windows = windows_of(fields, [kind] * fields.layers())
    whole = Fields({**fields.values, "rope_scaling": None, "rope_parameters": None, "partial_rotary_factor": None},
                   fields.model_type)  # fmt: skip
    turned = rotary(read, fields.count("hidden_size") // fields.count("num_attention_heads"))
    return ModelSpec(**common(whole, windows=windows, qkv_bias=False, out_bias=False, **turned))
