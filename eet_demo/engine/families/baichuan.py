"""Baichuan 7B and 13B: Llama with a fused q, k and v; 13B has ALiBi in the place of rotary.

transformers has no class for it: its code comes with the checkpoints, and is not run here.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from eet_demo.engine.families.fields import Fields, every
from eet_demo.engine.families.llama import LLAMA, common
from eet_demo.engine.spec import ModelSpec

BAICHUAN = replace(LLAMA, qkv=("self_attn.W_pack",))

SECOND_VOCABULARY = 125696
"""Rows of Baichuan 2's head, which its code normalises one by one."""


def baichuan(fields: Fields) -> ModelSpec:
    """13B's configs name no `max_position_embeddings`: it has no rotary, and `model_max_length` is its context."""
    fields.refuse(the_normalised_head_of_Baichuan_2=fields.count("vocab_size") == SECOND_VOCABULARY)
    if fields.has("max_position_embeddings"):
        return ModelSpec(**common(fields))
    alibi: dict[str, Any] = {"positions": every("alibi", fields.layers()), "rotary_dim": 0}
    return ModelSpec(**common(fields, **alibi, max_positions=fields.count("model_max_length")))
