"""A small random checkpoint of every family, made by transformers itself, and what transformers computes with it.

Every parameter is drawn, norm weights and biases too: at the ones and zeros they start from, none would be missed.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel

SIZES = {
    "vocab_size": 101,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 96,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
MHA = {name: value for name, value in SIZES.items() if name != "num_key_value_heads"}
GPT = {"vocab_size": 101, "n_positions": 96, "n_embd": 64, "n_layer": 3, "n_head": 4}
GEMMA = SIZES | {"head_dim": 16, "num_hidden_layers": 4, "query_pre_attn_scalar": 40, "sliding_window": 9}
HALF_FACTORS = [1.0, 1.1, 1.3, 1.7, 2.1, 2.4, 2.9, 3.3]
LONGROPE = {
    "rope_type": "longrope",
    "rope_theta": 10000.0,
    "short_factor": HALF_FACTORS,
    "long_factor": [3 * factor for factor in HALF_FACTORS],
}


def rope(kind: str, **fields: Any) -> dict[str, Any]:
    return {"rope_parameters": {"rope_type": kind, "rope_theta": 10000.0} | fields}


@dataclass(frozen=True)
class Family:
    """One checkpoint: transformers' module and class prefix, config fields, and the prompts it is tried with.

    Rotary scalings that depend on the length are fixed by the engine's `max_context`, where transformers looks at each
    sequence: these are tried with lengths for which both mean the same.
    """

    module: str
    prefix: str
    fields: dict[str, Any]
    lengths: tuple[int, ...] = (37, 1, 64, 5)
    max_context: int = 80
    new_tokens: int = 12
    changed: Callable[[PreTrainedModel], None] = field(default=lambda model: None)


def _without_layer_norm(model: PreTrainedModel) -> None:
    """What is done to a GPT-2 trained without LayerNorm: its class cannot leave the norm out, so eps drowns it."""
    for name, parameter in model.named_parameters():
        if ".ln_" in name and name.endswith("weight"):
            parameter.mul_(1e6)


FAMILIES: dict[str, Family] = {
    "opt": Family("opt", "OPT", MHA | {"ffn_dim": 96, "word_embed_proj_dim": 64}),
    "opt-no-biases": Family("opt", "OPT", MHA | {"ffn_dim": 96, "enable_bias": False, "tie_word_embeddings": False}),
    "gpt_neox": Family("gpt_neox", "GPTNeoX", MHA),
    "gpt_neox-in-turn": Family(
        "gpt_neox",
        "GPTNeoX",
        MHA | rope("default", partial_rotary_factor=0.5) | {"use_parallel_residual": False, "attention_bias": False},
    ),
    "gptj": Family("gptj", "GPTJ", GPT | {"rotary_dim": 8, "bos_token_id": 1, "eos_token_id": 2}),
    "bloom": Family("bloom", "Bloom", {"vocab_size": 101, "hidden_size": 64, "n_layer": 3, "n_head": 4}),
    "bloom-6-heads": Family("bloom", "Bloom", {"vocab_size": 101, "hidden_size": 96, "n_layer": 2, "n_head": 6}),
    "mistral": Family("mistral", "Mistral", SIZES | {"sliding_window": 11, "head_dim": 24}),
    "mistral-no-window": Family("mistral", "Mistral", SIZES | {"sliding_window": None}),
    "qwen2-windows": Family(
        "qwen2", "Qwen2", SIZES | {"use_sliding_window": True, "sliding_window": 10, "max_window_layers": 1}
    ),
    "qwen3": Family("qwen3", "Qwen3", SIZES | {"head_dim": 24, "tie_word_embeddings": True}),
    "smollm3": Family("smollm3", "SmolLM3", SIZES | {"num_hidden_layers": 4, "rope_parameters": None}),
    "smollm3-windows": Family(
        "smollm3",
        "SmolLM3",
        SIZES | {"no_rope_layers": [1, 0, 0], "use_sliding_window": True, "sliding_window": 8, "attention_bias": True},
    ),
    "gemma2": Family("gemma2", "Gemma2", GEMMA | {"attn_logit_softcapping": 3.0, "final_logit_softcapping": 5.0}),
    "gemma3": Family("gemma3", "Gemma3", GEMMA | {"sliding_window_pattern": 3}),
    "gemma3-linear": Family(
        "gemma3",
        "Gemma3",
        GEMMA
        | {
            "layer_types": ["full_attention", "sliding_attention", "full_attention", "sliding_attention"],
            "rope_parameters": {
                "sliding_attention": {"rope_type": "default", "rope_theta": 500.0},
                "full_attention": {"rope_type": "linear", "factor": 4.0, "rope_theta": 20000.0},
            },
        },
    ),
    "phi3": Family("phi3", "Phi3", SIZES | {"sliding_window": 13, "original_max_position_embeddings": 96}),
    "phi3-partial": Family("phi3", "Phi3", SIZES | rope("default", partial_rotary_factor=0.5)),
    "phi3-longrope-short": Family(
        "phi3",
        "Phi3",
        SIZES | {"rope_parameters": LONGROPE, "original_max_position_embeddings": 48},
        lengths=(30, 1, 17),
        max_context=48,
    ),
    "phi3-longrope-long": Family(
        "phi3",
        "Phi3",
        SIZES | {"rope_parameters": LONGROPE, "original_max_position_embeddings": 16},
        lengths=(30, 17, 64),
    ),
    "granite": Family(
        "granite",
        "Granite",
        SIZES
        | {
            "embedding_multiplier": 5.0,
            "attention_multiplier": 0.11,
            "residual_multiplier": 0.7,
            "logits_scaling": 3.0,
            "mlp_bias": True,
        },
    ),
    "olmo2": Family("olmo2", "Olmo2", SIZES),
    "stablelm": Family("stablelm", "StableLm", SIZES | {"use_qkv_bias": True}),
    "stablelm-parallel": Family(
        "stablelm",
        "StableLm",
        SIZES | rope("default", partial_rotary_factor=0.5) | {"use_parallel_residual": True, "qk_layernorm": True},
    ),
    "llama-dynamic-short": Family("llama", "Llama", SIZES | rope("dynamic", factor=3.0)),
    "llama-dynamic-long": Family(
        "llama",
        "Llama",
        SIZES | rope("dynamic", factor=3.0) | {"max_position_embeddings": 40},
        lengths=(80,),
        new_tokens=0,
    ),
    "llama-yarn": Family(
        "llama", "Llama", SIZES | rope("yarn", factor=4.0, original_max_position_embeddings=32, beta_fast=4.0)
    ),
    "llama-yarn-mscale": Family(
        "llama",
        "Llama",
        SIZES
        | rope("yarn", factor=4.0, mscale=0.7, mscale_all_dim=1.1, beta_fast=3.0, beta_slow=0.5, truncate=False)
        | {"max_position_embeddings": 24},
    ),
    "gpt2-no-layer-norm": Family(
        "gpt2", "GPT2", GPT | {"layer_norm_epsilon": 1e12}, changed=_without_layer_norm, new_tokens=8
    ),
}


def make_family(folder: Path, name: str, seed: int = 0) -> PreTrainedModel:
    """Saves the family's model to `folder` and returns it, float32, in eval mode, with eager attention.

    Eager, for transformers' sdpa leaves out soft caps.
    """
    family = FAMILIES[name]
    package = f"transformers.models.{family.module}"
    configs = importlib.import_module(f"{package}.configuration_{family.module}")
    models = importlib.import_module(f"{package}.modeling_{family.module}")
    config_name = f"{family.prefix}TextConfig" if family.module == "gemma3" else f"{family.prefix}Config"
    head = "LMHeadModel" if family.module == "gpt2" else "ForCausalLM"
    config = getattr(configs, config_name)(**family.fields)
    config._attn_implementation = "eager"
    torch.manual_seed(seed)
    model: PreTrainedModel = getattr(models, family.prefix + head)(config)
    with torch.no_grad():
        for tensor_name, parameter in model.named_parameters():
            if parameter.ndim == 1:
                parameter.normal_(1.0 if tensor_name.endswith("weight") else 0.0, 0.2)
            else:
                parameter.normal_(0.0, 0.15)
        family.changed(model)
    model.eval().save_pretrained(folder)
    return model


def make_baichuan(folder: Path, alibi: bool) -> PreTrainedModel:
    """A Llama saved as a Baichuan: q, k and v fused into W_pack; with `alibi`, as 13B, made to compute that.

    transformers has no class of it. What 13B computes is Llama without rotation, ALiBi added to the causal mask.
    """
    module = importlib.import_module("transformers.models.llama.modeling_llama")
    configs = importlib.import_module("transformers.models.llama.configuration_llama")
    config = configs.LlamaConfig(**(SIZES | {"num_key_value_heads": 4, "rms_norm_eps": 1e-6}))
    config._attn_implementation = "eager"
    torch.manual_seed(0)
    model: PreTrainedModel = module.LlamaForCausalLM(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(1.0 if parameter.ndim == 1 else 0.0, 0.2 if parameter.ndim == 1 else 0.15)
    model.eval().save_pretrained(folder)
    tensors = load_file(folder / "model.safetensors")
    for i in range(3):
        prefix = f"model.layers.{i}.self_attn."
        packed = [tensors.pop(f"{prefix}{name}_proj.weight") for name in "qkv"]
        tensors[f"{prefix}W_pack.weight"] = torch.cat(packed)
    save_file(tensors, folder / "model.safetensors")
    written: dict[str, Any] = {name: value for name, value in SIZES.items() if name != "num_key_value_heads"}
    written |= {"model_type": "baichuan", "hidden_act": "silu", "rms_norm_eps": 1e-6, "tie_word_embeddings": False}
    if alibi:
        written["model_max_length"] = written.pop("max_position_embeddings")
        _without_rotary_with_alibi(model)
    (folder / "config.json").write_text(json.dumps(written))
    return model


def _without_rotary_with_alibi(model: PreTrainedModel) -> None:
    bloom = importlib.import_module("transformers.models.bloom.modeling_bloom")
    rotary, forward = model.model.rotary_emb, model.forward

    def still(x: torch.Tensor, position_ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        ones = torch.ones(*position_ids.shape, 16, dtype=x.dtype)
        return ones, torch.zeros_like(ones)

    def with_alibi(input_ids: torch.Tensor, **arguments: Any) -> Any:
        length, dtype = input_ids.shape[1], next(model.parameters()).dtype
        bias = bloom.build_alibi_tensor(torch.ones(1, length), 4, dtype)[None]
        later = torch.ones(length, length, dtype=torch.bool).triu(1)
        mask = bias.expand(1, 4, length, length).masked_fill(later, torch.finfo(dtype).min)
        return forward(input_ids, attention_mask=mask, use_cache=False)

    rotary.forward = still
    model.forward = with_alibi


def logits_of(model: PreTrainedModel, prompt: list[int], dtype: torch.dtype) -> np.ndarray:
    """float64 (len(prompt), vocab_size): a whole forward in `dtype`."""
    torch.nn.Module.to(model, dtype)
    with torch.no_grad():
        logits: np.ndarray = model.forward(torch.tensor([prompt])).logits[0].double().numpy()
    torch.nn.Module.to(model, torch.float32)
    return logits


def greedy(model: PreTrainedModel, prompt: list[int], new_tokens: int) -> list[int]:
    """The tokens that follow, one whole forward each."""
    ids = list(prompt)
    for _ in range(new_tokens):
        ids.append(int(logits_of(model, ids, torch.float32)[-1].argmax()))
    return ids[len(prompt) :]
