"""Phi-3: Llama with fused projections, partial rotary and LongRoPE."""

from __future__ import annotations

from dataclasses import replace

from eet_demo.engine.families.fields import Fields, windows_of
from eet_demo.engine.families.llama import LLAMA, common
from eet_demo.engine.spec import ModelSpec

PHI3 = replace(LLAMA, qkv=("self_attn.qkv_proj",), up=("mlp.gate_up_proj",))


def phi3(fields: Fields) -> ModelSpec:
    """Every layer has the window, where there is one. Early configs call LongRoPE "su" or, wrongly, "yarn"."""
    rope = {**fields.object("rope_scaling").values, **fields.object("rope_parameters").values}
    if "yarn" in (rope.get("rope_type"), rope.get("type")):
        rope["rope_type"] = "longrope"
    read = Fields({**fields.values, "rope_scaling": None, "rope_parameters": rope}, fields.model_type)
    kind = "sliding_attention" if fields.has("sliding_window") else "full_attention"
    windows = windows_of(fields, [kind] * fields.layers())
    return ModelSpec(**common(read, partial=True, windows=windows, qkv_bias=False, out_bias=False))
