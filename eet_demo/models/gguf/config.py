"""`config.json` from a GGUF file's metadata, in the keys that released checkpoints use."""

from __future__ import annotations

from typing import Any

import numpy as np

from eet_demo.engine.rotary import yarn_attention_factor
from eet_demo.errors import CheckpointError, UnsupportedError
from eet_demo.models.gguf.file import GgufFile, GgufTensor
from eet_demo.models.gguf.metadata import end_ids, token_id


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


def special_ids(file: GgufFile) -> dict[str, int | list[int]]:
    """`eos_token_id` is every id that ends an answer: a list where the file names more than one."""
    lookup, name, size = file.metadata.value, file.path.name, len(file.metadata.value("tokenizer.ggml.tokens", []))
    ends = end_ids(lookup, size, name)
    found: dict[str, int | list[int] | None] = {
        "bos_token_id": token_id(lookup, "bos", size, name),
        "eos_token_id": ends if len(ends) > 1 else next(iter(ends), None),
        "pad_token_id": token_id(lookup, "padding", size, name),
    }
    return {key: value for key, value in found.items() if value is not None}


def _rope_scaling(file: GgufFile, theta: float, head_dim: int) -> dict[str, Any] | None:
    """How rotary reaches beyond the trained context; as in llama.cpp, a factor without a type is linear.

    Raises:
        UnsupportedError: another type, or two at once.
    """
    metadata, factors = file.metadata, file.rope_factors()
    kind = str(metadata.value("llama.rope.scaling.type", "linear"))
    if kind not in ("none", "linear", "yarn"):
        raise UnsupportedError(f"{file.path.name} uses rotary scaling '{kind}'; linear, yarn and llama3 can be run.")
    yarn_keys = [key for key in metadata.values if key.startswith("llama.rope.scaling.yarn_")]
    if kind != "yarn" and yarn_keys:
        raise UnsupportedError(f"{file.path.name} has {yarn_keys[0]}, and its rotary scaling is not yarn but '{kind}'.")
    key = "rope.scaling.factor" if metadata.has("rope.scaling.factor") else "rope.scale_linear"
    factor = 1.0 if metadata.value(f"llama.{key}") == 0 else _short(metadata.number(key, 1.0))
    if kind == "yarn" and factor == 1.0:
        raise UnsupportedError(f"{file.path.name} uses rotary scaling 'yarn' and says no factor ({key}).")
    if kind == "none" or factor == 1.0:
        return None if factors is None else _llama3_scaling(file, factors, theta, head_dim)
    if factors is not None:
        raise UnsupportedError(f"{file.path.name} has factors of its own for rotary and scales it by {factor:g} too.")
    return {"rope_type": "linear", "factor": factor} if kind == "linear" else _yarn_scaling(file, factor)


def _yarn_scaling(file: GgufFile, factor: float) -> dict[str, Any]:
    """llama.cpp multiplies its attention factor with YaRN's own, transformers takes the product."""
    number = file.metadata.number
    own = number("rope.scaling.yarn_attn_factor", 1.0)
    return {
        "rope_type": "yarn",
        "factor": factor,
        "original_max_position_embeddings": file.metadata.count(
            "rope.scaling.original_context_length", file.metadata.count("context_length")
        ),
        "beta_fast": _short(number("rope.scaling.yarn_beta_fast", 32.0)),
        "beta_slow": _short(number("rope.scaling.yarn_beta_slow", 1.0)),
    } | ({"attention_factor": own * yarn_attention_factor(factor)} if own != 1.0 else {})


def _llama3_scaling(file: GgufFile, factors: np.ndarray, theta: float, head_dim: int) -> dict[str, Any]:
    """Llama 3's scaling from the per-frequency factors that a GGUF keeps of it; checked, never guessed.

    llama.cpp stores only the factors (`generate_extra_tensors` of LlamaModel). Every Llama 3.1/3.2 release uses
    low_freq_factor 1, high_freq_factor 4 and 8192 original positions; these are taken if they reproduce the tensor.
    """
    found = {
        "rope_type": "llama3",
        "factor": _short(float(factors.max())),
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }
    expected = llama3_factors(theta, head_dim, found)
    if factors.shape != expected.shape or not np.allclose(expected, factors, rtol=1e-4):
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
    count, number, rows = file.metadata.count, file.metadata.number, _embedding(file).shape[0]
    if (said := count("vocab_size", rows)) != rows:
        raise CheckpointError(f"{file.path.name} says it has {said} tokens; its embedding has {rows} rows.")
    layers = count("block_count")
    _check_layers(file, layers)
    common = {
        "vocab_size": rows,
        "tie_word_embeddings": _is_tied(file),
        "dtype": "float32",
    } | special_ids(file)
    if file.architecture == "gpt2":
        return {
            "architectures": ["GPT2LMHeadModel"],
            "model_type": "gpt2",
            "n_embd": count("embedding_length"),
            "n_layer": layers,
            "n_head": file.num_heads,
            "n_positions": count("context_length"),
            "n_inner": count("feed_forward_length"),
            "layer_norm_epsilon": _short(number("attention.layer_norm_epsilon")),
            "activation_function": "gelu_new",
        } | common
    hidden = count("embedding_length")
    head_dim = count("attention.key_length", hidden // file.num_heads)
    theta = _short(number("rope.freq_base", 10000.0))
    if (rotary := count("rope.dimension_count", head_dim)) != head_dim:
        raise UnsupportedError(f"{file.path.name} rotates {rotary} of {head_dim} dimensions; only all can be rotated.")
    if (values := count("attention.value_length", head_dim)) != head_dim:
        raise UnsupportedError(
            f"{file.path.name} has values of {values} and keys of {head_dim}; only equal can be run."
        )
    biased = {tensor.name.split(".")[2] for tensor in file.tensors if tensor.name.endswith(".bias")}
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": hidden,
        "intermediate_size": count("feed_forward_length"),
        "num_hidden_layers": layers,
        "num_attention_heads": file.num_heads,
        "num_key_value_heads": file.num_kv_heads,
        "head_dim": head_dim,
        "max_position_embeddings": count("context_length"),
        "rms_norm_eps": _short(number("attention.layer_norm_rms_epsilon")),
        "rope_theta": theta,
        "rope_scaling": _rope_scaling(file, theta, head_dim),
        "hidden_act": "silu",
        "attention_bias": "attn_q" in biased,
        "mlp_bias": "ffn_up" in biased,
    } | common


def _check_layers(file: GgufFile, layers: int) -> None:
    for tensor in file.tensors:
        stem, _, rest = tensor.name.partition(".")
        if stem == "blk" and int(rest.partition(".")[0]) >= layers:
            raise CheckpointError(f"{file.path.name} has {layers} layers and a tensor {tensor.name}.")
