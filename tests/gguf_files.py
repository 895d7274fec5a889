"""GGUF files in llama.cpp's conventions from small random models, by the `gguf` package and its own name table."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import gguf
import numpy as np
import tokenizers
import torch
from tokenizers import decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedModel

from eet_demo.text.prompts import load_documents
from tests.parity.checkpoints import CLASSES, GPT2, LLAMA

SPECIALS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
FIELDS = {
    "llama": LLAMA | {"intermediate_size": 192, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2},
    "gpt2": GPT2 | {"bos_token_id": 1, "eos_token_id": 2},
}


class Typed(NamedTuple):
    """A metadata value in a form of its own, e.g. a count as UINT8; `each` is the type of a list's values."""

    value: Any
    kind: gguf.GGUFValueType
    each: gguf.GGUFValueType | None = None


def random_model(kind: str, **fields: Any) -> PreTrainedModel:
    """A `llama` or `gpt2` with every parameter drawn, float32, in eval mode."""
    config_class, model_class = CLASSES[kind]
    torch.manual_seed(0)
    model = model_class(config_class(**(FIELDS[kind] | fields)))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.normal_(1.0 if parameter.ndim == 1 and name.endswith("weight") else 0.0, 0.15)
    return model.eval()


@cache
def byte_level_tokenizer(vocab_size: int) -> tokenizers.Tokenizer:
    """A byte-level BPE with SmolLM2's pre-tokenizer, trained on the repository's documents."""
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, special_tokens=list(SPECIALS), initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator([document.text for document in load_documents().values()], trainer)
    return tokenizer


def write_gguf(
    path: Path,
    model: PreTrainedModel,
    kind: gguf.GGMLQuantizationType = gguf.GGMLQuantizationType.F32,
    extra: Iterable[tuple[str, np.ndarray]] = (),
    metadata: Mapping[str, Any] = MappingProxyType({}),
) -> Path:
    """`model` as llama.cpp's converter writes it, matrices in `kind`; `metadata` replaces keys, None leaves one out."""
    architecture = model.config.model_type
    writer = gguf.GGUFWriter(path, architecture)
    keys = _metadata(model) | _vocabulary(byte_level_tokenizer(model.config.vocab_size)) | dict(metadata)
    for key, value in keys.items():
        _add(writer, key, value)
    for name, values in _tensors(model):
        stored = gguf.quants.quantize(values, kind) if values.ndim > 1 else values
        writer.add_tensor(name, stored, raw_dtype=kind if values.ndim > 1 else None)
    for name, values in extra:
        writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _add(writer: gguf.GGUFWriter, key: str, value: Any) -> None:
    if value is None:
        return
    if isinstance(value, Typed):
        writer.add_key_value(key, value.value, value.kind, value.each)
    elif isinstance(value, list):
        writer.add_array(key, value)
    elif isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, int):
        writer.add_uint32(key, value)
    elif isinstance(value, float):
        writer.add_float32(key, value)
    else:
        writer.add_string(key, value)


def _metadata(model: PreTrainedModel) -> dict[str, Any]:
    config, arch = model.config, model.config.model_type
    if arch == "gpt2":
        return {
            "gpt2.block_count": config.n_layer,
            "gpt2.context_length": config.n_positions,
            "gpt2.embedding_length": config.n_embd,
            "gpt2.feed_forward_length": 4 * config.n_embd,
            "gpt2.attention.head_count": config.n_head,
            "gpt2.attention.layer_norm_epsilon": config.layer_norm_epsilon,
        }
    rope = config.rope_parameters
    linear = rope["rope_type"] == "linear"
    return {
        "llama.block_count": config.num_hidden_layers,
        "llama.context_length": config.max_position_embeddings,
        "llama.embedding_length": config.hidden_size,
        "llama.feed_forward_length": config.intermediate_size,
        "llama.attention.head_count": config.num_attention_heads,
        "llama.attention.head_count_kv": config.num_key_value_heads,
        "llama.attention.layer_norm_rms_epsilon": config.rms_norm_eps,
        "llama.attention.key_length": config.head_dim,
        "llama.rope.dimension_count": config.head_dim,
        "llama.rope.freq_base": float(rope["rope_theta"]),
        "llama.rope.scaling.type": "linear" if linear else None,
        "llama.rope.scaling.factor": float(rope["factor"]) if linear else None,
    }


def _vocabulary(tokenizer: tokenizers.Tokenizer) -> dict[str, Any]:
    vocab = sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])
    merges = json.loads(tokenizer.to_str())["model"]["merges"]
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "smollm",
        "tokenizer.ggml.tokens": [token for token, _ in vocab],
        "tokenizer.ggml.token_type": [3 if token in SPECIALS else 1 for token, _ in vocab],
        "tokenizer.ggml.merges": [" ".join(pair) for pair in merges],
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.unknown_token_id": 0,
        "tokenizer.ggml.padding_token_id": 2,
        "tokenizer.ggml.add_bos_token": False,
        "tokenizer.chat_template": CHAT_TEMPLATE,
    }


def _tensors(model: PreTrainedModel) -> Iterable[tuple[str, np.ndarray]]:
    """GGUF name and values, changed as `LlamaModel.modify_tensors` and `GPT2Model.modify_tensors` change them."""
    config = model.config
    llama = config.model_type == "llama"
    arch = gguf.MODEL_ARCH.LLAMA if llama else gguf.MODEL_ARCH.GPT2
    names = gguf.get_tensor_name_map(arch, config.num_hidden_layers)
    for name, tensor in model.state_dict().items():
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        values = tensor.numpy()
        if llama and ".q_proj." in name:
            values = permute(values, config.num_attention_heads)
        elif llama and ".k_proj." in name:
            values = permute(values, config.num_key_value_heads)
        elif not llama and name.endswith(("c_attn.weight", "c_proj.weight", "c_fc.weight")):
            values = np.ascontiguousarray(values.T)
        stored = names.get_name(name, try_suffixes=(".weight", ".bias"))
        assert stored is not None, f"the gguf package knows no name for {name}"
        yield stored, values


def permute(values: np.ndarray, heads: int) -> np.ndarray:
    """llama.cpp's rotary layout: the two halves of a head's rows, interleaved."""
    rows = np.empty_like(values)
    size = values.shape[0] // heads
    for head in range(heads):
        for i in range(size // 2):
            for half in (0, 1):
                rows[head * size + 2 * i + half] = values[head * size + half * size // 2 + i]
    return rows


def llama3_factors(theta: float, head_dim: int, factor: float, low: float, high: float, original: int) -> np.ndarray:
    """`rope_freqs.weight` as `LlamaModel.generate_extra_tensors` computes it, frequency by frequency."""
    factors = []
    for i in range(0, head_dim, 2):
        wavelength = 2 * math.pi * theta ** (i / head_dim)
        if wavelength < original / high:
            factors.append(1.0)
        elif wavelength > original / low:
            factors.append(factor)
        else:
            smooth = (original / wavelength - low) / (high - low)
            factors.append(1 / ((1 - smooth) / factor + smooth))
    return np.array(factors, dtype=np.float32)
