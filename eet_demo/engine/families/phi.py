"""Phi-3: Llama with fused projections, partial rotary and LongRoPE."""

from __future__ import annotations

from dataclasses import replace

from eet_demo.engine.families.fields import Fields, one_window, rope_of, turned
from eet_demo.engine.families.llama import LLAMA, common
from eet_demo.engine.spec import ModelSpec
from eet_demo.errors import UnsupportedError

PHI3 = replace(LLAMA, qkv=("self_attn.qkv_proj",), up=("mlp.gate_up_proj",))


def phi3(fields: Fields) -> ModelSpec:
    """Every layer has the window, where there is one. Early configs call LongRoPE "su" or, wrongly, "yarn"."""
    given = fields.values
    theta, partial = given.get("rope_theta", 10000.0), given.get("partial_rotary_factor", 1.0)
    rope = rope_of(fields, rope_theta=theta, partial_rotary_factor=partial)
    kind = rope.word("rope_type" if "rope_type" in rope.values else "type", "default")
    if kind in ("su", "yarn"):
        rope = Fields({**rope.values, "rope_type": "longrope"}, fields.model_type)
    elif kind not in ("default", "longrope"):
        raise UnsupportedError(f"phi3: rotary scaling {kind!r} is not supported; supported: default, longrope")
    head_dim = fields.count("head_dim", max(1, fields.count("hidden_size") // fields.count("num_attention_heads")))
    rotation = turned(fields, rope, head_dim)
    return ModelSpec(**common(fields, windows=one_window(fields), qkv_bias=False, out_bias=False, **rotation))
