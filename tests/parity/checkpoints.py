"""Small random checkpoints in Hugging Face's own format, made by transformers itself; the parity tests' models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
)

CLASSES: dict[str, tuple[type[Any], type[Any]]] = {
    "gpt2": (GPT2Config, GPT2LMHeadModel),
    "llama": (LlamaConfig, LlamaForCausalLM),
    "qwen2": (Qwen2Config, Qwen2ForCausalLM),
}

GPT2 = {"vocab_size": 331, "n_positions": 96, "n_embd": 64, "n_layer": 3, "n_head": 4}
LLAMA: dict[str, Any] = {
    "vocab_size": 331,
    "hidden_size": 64,
    "intermediate_size": 176,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 96,
}
LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}

VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "gpt2": ("gpt2", GPT2),
    "gpt2-25-heads": ("gpt2", GPT2 | {"n_embd": 200, "n_head": 25}),
    "gpt2-relu-untied": ("gpt2", GPT2 | {"activation_function": "relu", "tie_word_embeddings": False, "n_inner": 72}),
    "gpt2-gelu-erf": ("gpt2", GPT2 | {"activation_function": "gelu"}),
    "llama": ("llama", LLAMA),
    "llama-tied-biases": ("llama", LLAMA | {"tie_word_embeddings": True, "attention_bias": True, "mlp_bias": True}),
    "llama-head-dim-80": ("llama", LLAMA | {"head_dim": 80}),
    "llama-14-heads-on-2": ("llama", LLAMA | {"hidden_size": 112, "num_attention_heads": 14}),
    "llama-7-a-group": (
        "llama",
        LLAMA | {"hidden_size": 56, "num_attention_heads": 7, "num_key_value_heads": 1, "head_dim": 8},
    ),
    "llama-mha": ("llama", LLAMA | {"num_key_value_heads": 4}),
    "llama3-rope": ("llama", LLAMA | {"rope_parameters": LLAMA3_ROPE}),
    "llama-linear-rope": (
        "llama",
        LLAMA | {"rope_parameters": {"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0}},
    ),
    "qwen2": ("qwen2", LLAMA | {"tie_word_embeddings": True}),
}


def make_checkpoint(folder: Path, variant: str, seed: int = 0) -> PreTrainedModel:
    """Saves the variant's model to `folder` and returns it, float32, in eval mode.

    Norm weights and every bias are drawn too: initialised to ones and zeros they would hide a missing one.
    """
    kind, fields = VARIANTS[variant]
    config_class, model_class = CLASSES[kind]
    torch.manual_seed(seed)
    model = model_class(config_class(**fields))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 1:
                parameter.normal_(1.0 if name.endswith("weight") else 0.0, 0.2)
            else:
                parameter.normal_(0.0, 0.15)
    model.eval().save_pretrained(folder)
    return model
