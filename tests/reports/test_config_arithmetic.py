"""A Mistral without `sliding_window` differs beyond token 4,096, a Gemma rotated over 16 of 256 dims at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.reports.both import assert_same, change_config, saved

LONG = [(7 * i * i + 3) % 24 for i in range(30)]
WINDOWS = ["full_attention", "sliding_attention"]
USED = {"use_sliding_window": True, "sliding_window": 7}

CHANGED: dict[str, tuple[str, dict[str, Any], tuple[str, ...]]] = {
    "gemma2 without soft caps": ("gemma2", {}, ("attn_logit_softcapping", "final_logit_softcapping")),
    "gemma2 with null soft caps": ("gemma2", {"attn_logit_softcapping": None, "final_logit_softcapping": None}, ()),
    "gemma2 with a window": ("gemma2", {"sliding_window": 7}, ("layer_types",)),
    "gemma3 with a window": ("gemma3_text", {"sliding_window": 7, "sliding_window_pattern": 2}, ("layer_types",)),
    "gemma3 old rotary": (
        "gemma3_text",
        {"rope_theta": 900.0, "rope_local_base_freq": 50.0, "rope_scaling": {"rope_type": "linear", "factor": 4.0}},
        ("rope_parameters",),
    ),
    "mistral with a window": ("mistral", {"sliding_window": 7}, ()),
    "mistral without one": ("mistral", {"sliding_window": None}, ()),
    "qwen2 layer types": ("qwen2", USED | {"layer_types": WINDOWS}, ()),
    "qwen3 windows": ("qwen3", USED | {"max_window_layers": 1}, ("layer_types",)),
    "phi3 with a window": ("phi3", {"sliding_window": 7, "partial_rotary_factor": 0.5}, ("rope_parameters",)),
    "neox old rotary": ("gpt_neox", {"rotary_pct": 1.0, "rotary_emb_base": 300}, ("rope_parameters",)),
    "neox a theta that is not read": ("gpt_neox", {"rope_theta": 300.0, "rotary_pct": 0.5}, ("rope_parameters",)),
    "llama null fraction": ("llama", {"partial_rotary_factor": None}, ("rope_parameters",)),
    "granite multipliers": ("granite", {"logits_scaling": 3.0, "residual_multiplier": 0.5}, ("attention_multiplier",)),
    "smollm3 positions": ("smollm3", {"no_rope_layer_interval": 2}, ("no_rope_layers", "layer_types")),
    "llama scaling before parameters": (
        "llama",
        {"rope_scaling": {"type": "linear", "factor": 4.0}, "rope_theta": 500.0},
        (),
    ),
    "gpt2 other names": ("gpt2", {"hidden_size": 16, "num_attention_heads": 2}, ("n_embd", "n_head")),
}  # fmt: skip


@pytest.mark.parametrize("case", CHANGED)
def test_logits_of_a_changed_config(tmp_path: Path, case: str) -> None:
    model_type, changed, dropped = CHANGED[case]
    change_config(saved(tmp_path, model_type), dropped, **changed)
    assert_same(tmp_path, LONG)


def test_gemma_rotates_whole_heads_where_head_dim_is_left_out(tmp_path: Path) -> None:
    sizes = {"head_dim": 256, "hidden_size": 16, "num_attention_heads": 1}
    change_config(saved(tmp_path, "gemma2", **sizes), ("head_dim",))
    assert_same(tmp_path, LONG)
