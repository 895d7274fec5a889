"""`tokenizer.json` and `tokenizer_config.json` from a GGUF file's metadata.

A GGUF keeps vocabulary, merges, scores and token types, and names the pre-tokenizer in one word; how text is split
before the merges is known only by that word. The splits below are those of the original repositories' tokenizer.json.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from eet_demo.errors import CheckpointError, UnsupportedError

_CONTROL, _USER_DEFINED, _BYTE = 3, 4, 6  # gguf.TokenType

_LLAMA3_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
_BYTE_LEVEL_AFTER_SPLIT = _BYTE_LEVEL | {"use_regex": False}
_PRE_TOKENIZERS: dict[str, dict[str, Any]] = {
    "gpt-2": _BYTE_LEVEL,
    "smollm": {
        "type": "Sequence",
        "pretokenizers": [{"type": "Digits", "individual_digits": True}, _BYTE_LEVEL],
    },
    "llama-bpe": {
        "type": "Sequence",
        "pretokenizers": [
            {"type": "Split", "pattern": {"Regex": _LLAMA3_SPLIT}, "behavior": "Isolated", "invert": False},
            _BYTE_LEVEL_AFTER_SPLIT,
        ],
    },
}

Lookup = Callable[..., Any]
"""`lookup(key, default)` of the file's metadata."""


def tokenizer_files(lookup: Lookup, name: str) -> dict[str, str]:
    """`{file name: JSON text}` of the tokenizer that the metadata describes; ids are the file's own.

    Raises:
        CheckpointError: no vocabulary, or merges missing.
        UnsupportedError: a tokenizer model or pre-tokenizer that is not known here; the message names what is.
    """
    tokens = lookup("tokenizer.ggml.tokens")
    if not tokens:
        raise CheckpointError(f"{name} has no vocabulary (tokenizer.ggml.tokens).")
    model = lookup("tokenizer.ggml.model")
    types = lookup("tokenizer.ggml.token_type") or [1] * len(tokens)
    if model == "gpt2":
        tokenizer = _byte_level(lookup, tokens, name)
    else:
        raise UnsupportedError(f"{name} has the tokenizer '{model}'; gpt2 (byte-level BPE) is supported.")
    tokenizer["added_tokens"] = [
        {
            "id": index,
            "content": token,
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
            "special": kind == _CONTROL,
        }
        for index, (token, kind) in enumerate(zip(tokens, types, strict=True))
        if kind in (_CONTROL, _USER_DEFINED)
    ]
    return {
        "tokenizer.json": json.dumps(tokenizer, ensure_ascii=False, separators=(",", ":")),
        "tokenizer_config.json": json.dumps(_config(lookup, tokens), ensure_ascii=False, indent=2),
    }


def _byte_level(lookup: Lookup, tokens: list[str], name: str) -> dict[str, Any]:
    pre = lookup("tokenizer.ggml.pre", "gpt-2")
    if pre not in _PRE_TOKENIZERS:
        raise UnsupportedError(f"{name} splits text as '{pre}'; {', '.join(_PRE_TOKENIZERS)} are supported.")
    merges = lookup("tokenizer.ggml.merges")
    if not merges:
        raise CheckpointError(f"{name} has a byte-level vocabulary but no merges (tokenizer.ggml.merges).")
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [],
        "normalizer": None,
        "pre_tokenizer": _PRE_TOKENIZERS[pre],
        "post_processor": None,
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": pre == "llama-bpe",
            "vocab": {token: index for index, token in enumerate(tokens)},
            "merges": merges,
        },
    }


def _config(lookup: Lookup, tokens: list[str]) -> dict[str, Any]:
    config: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
        "add_bos_token": bool(lookup("tokenizer.ggml.add_bos_token", False)),
    }
    for name, key in {"bos": "bos", "eos": "eos", "unk": "unknown", "pad": "padding"}.items():
        index = lookup(f"tokenizer.ggml.{key}_token_id")
        if index is not None:
            config[f"{name}_token"] = tokens[int(index)]
    architecture = lookup("general.architecture")
    config["model_max_length"] = int(lookup(f"{architecture}.context_length"))
    if template := lookup("tokenizer.chat_template"):
        config["chat_template"] = template
    return config
