"""What llama.cpp's converter calls the tensors of each architecture, and what Hugging Face calls them."""

from __future__ import annotations

import re

ARCHITECTURES = ("llama", "gpt2")

GLOBAL_NAMES = {
    "llama": {
        "token_embd": "model.embed_tokens",
        "output_norm": "model.norm",
        "output": "lm_head",
    },
    "gpt2": {
        "token_embd": "transformer.wte",
        "position_embd": "transformer.wpe",
        "output_norm": "transformer.ln_f",
        "output": "lm_head",
    },
}
_LAYER_NAMES = {
    "llama": {
        "attn_norm": "input_layernorm",
        "attn_q": "self_attn.q_proj",
        "attn_k": "self_attn.k_proj",
        "attn_v": "self_attn.v_proj",
        "attn_output": "self_attn.o_proj",
        "ffn_norm": "post_attention_layernorm",
        "ffn_gate": "mlp.gate_proj",
        "ffn_up": "mlp.up_proj",
        "ffn_down": "mlp.down_proj",
    },
    "gpt2": {
        "attn_norm": "ln_1",
        "attn_qkv": "attn.c_attn",
        "attn_output": "attn.c_proj",
        "ffn_norm": "ln_2",
        "ffn_up": "mlp.c_fc",
        "ffn_down": "mlp.c_proj",
    },
}
_LAYER_PREFIX = {"llama": "model.layers", "gpt2": "transformer.h"}
_LAYER = re.compile(r"blk\.(\d+)\.(.+)\.(weight|bias)")


def hf_name(architecture: str, name: str) -> str | None:
    """Hugging Face's name of a GGUF tensor; None for a tensor that a model of the architecture does not have."""
    match = _LAYER.fullmatch(name)
    if match and match[2] in _LAYER_NAMES[architecture]:
        return f"{_LAYER_PREFIX[architecture]}.{match[1]}.{_LAYER_NAMES[architecture][match[2]]}.{match[3]}"
    stem, _, suffix = name.rpartition(".")
    if stem in GLOBAL_NAMES[architecture]:
        return f"{GLOBAL_NAMES[architecture][stem]}.{suffix}"
    return None
