"""`config.json` from a GGUF file's metadata, in the keys that released checkpoints use."""

from __future__ import annotations

from typing import Any

import numpy as np

from eet_demo.errors import CheckpointError, UnsupportedError
from eet_demo.models.gguf.file import GgufFile, GgufTensor


def _short(value: float) -> float:
    """The shortest decimal that is the same float32: 1e-05 instead of 9.999999747378752e-06."""
    return float(str(np.float32(value)))


def _is_tied(file: GgufFile) -> bool:
    """No head of its own, or one with the embedding's very bytes."""
    tensors = {tensor.name: tensor for tensor in file.tensors}
    head = tensors.get("output.weight")
    if head is None:
        return True
    embedding = _embedding(file)
    return head.kind == embedding.kind and np.array_equal(head.data, embedding.data)


def _embedding(file: GgufFile) -> GgufTensor:
    for tensor in file.tensors:
        if tensor.name == "token_embd.weight":
            return tensor
    raise CheckpointError(f"{file.path} has no token embedding (token_embd.weight).")


def special_ids(file: GgufFile) -> dict[str, int]:
    keys = {"bos_token_id": "bos_token_id", "eos_token_id": "eos_token_id", "pad_token_id": "padding_token_id"}
    found = {name: file.value(f"tokenizer.ggml.{key}") for name, key in keys.items()}
    return {name: int(value) for name, value in found.items() if value is not None}


def _rope_scaling(file: GgufFile, theta: float, head_dim: int) -> dict[str, Any] | None:
    """Llama 3's scaling from the per-frequency factors that a GGUF keeps of it; checked, never guessed.

    llama.cpp stores only the factors (`generate_extra_tensors` of LlamaModel). Every Llama 3.1/3.2 release uses
    low_freq_factor 1, high_freq_factor 4 and 8192 original positions; these are taken if they reproduce the tensor.
    """
    factors = file.rope_factors()
    scaling = file.value("llama.rope.scaling.type", "none")
    if factors is None:
        if scaling == "linear":
            return {"rope_type": "linear", "factor": _short(file.need("rope.scaling.factor"))}
        if scaling != "none":
            raise UnsupportedError(f"{file.path.name} uses rotary scaling '{scaling}'; linear and llama3 can be run.")
        return None
    found = {
        "rope_type": "llama3",
        "factor": _short(float(factors.max())),
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }
    if not np.allclose(llama3_factors(theta, head_dim, found), factors, rtol=1e-4):
        raise UnsupportedError(f"{file.path.name} has rotary factors that are not those of Llama 3.1 or 3.2.")
    return found


def llama3_factors(theta: float, head_dim: int, scaling: dict[str, Any]) -> np.ndarray:
    """float64 (head_dim / 2,): the divisor of each rotary frequency, as `LlamaModel.generate_extra_tensors` has it."""
    wavelength = 2 * np.pi * theta ** (np.arange(0, head_dim, 2) / head_dim)
    original, factor = scaling["original_max_position_embeddings"], scaling["factor"]
    low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
    smooth = np.clip((original / wavelength - low) / (high - low), 0.0, 1.0)
    return np.asarray(1 / ((1 - smooth) / factor + smooth))


def hf_config(file: GgufFile) -> dict[str, Any]:
    """`config.json` of the folder, in the keys that released checkpoints use."""
    common = {
        "vocab_size": _embedding(file).shape[0],
        "tie_word_embeddings": _is_tied(file),
        "dtype": "float32",
    } | special_ids(file)
    if file.architecture == "gpt2":
        return {
            "architectures": ["GPT2LMHeadModel"],
            "model_type": "gpt2",
            "n_embd": int(file.need("embedding_length")),
            "n_layer": int(file.need("block_count")),
            "n_head": file.num_heads,
            "n_positions": int(file.need("context_length")),
            "n_inner": int(file.need("feed_forward_length")),
            "layer_norm_epsilon": _short(file.need("attention.layer_norm_epsilon")),
            "activation_function": "gelu_new",
        } | common
    hidden = int(file.need("embedding_length"))
    head_dim = int(file.value("llama.attention.key_length", hidden // file.num_heads))
    theta = _short(file.value("llama.rope.freq_base", 10000.0))
    if (rotary := int(file.value("llama.rope.dimension_count", head_dim))) != head_dim:
        raise UnsupportedError(f"{file.path.name} rotates {rotary} of {head_dim} dimensions; only all can be rotated.")
    biased = {tensor.name.split(".")[2] for tensor in file.tensors if tensor.name.endswith(".bias")}
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": hidden,
        "intermediate_size": int(file.need("feed_forward_length")),
        "num_hidden_layers": int(file.need("block_count")),
        "num_attention_heads": file.num_heads,
        "num_key_value_heads": file.num_kv_heads,
        "head_dim": head_dim,
        "max_position_embeddings": int(file.need("context_length")),
        "rms_norm_eps": _short(file.need("attention.layer_norm_rms_epsilon")),
        "rope_theta": theta,
        "rope_scaling": _rope_scaling(file, theta, head_dim),
        "hidden_act": "silu",
        "attention_bias": "attn_q" in biased,
        "mlp_bias": "ffn_up" in biased,
    } | common
