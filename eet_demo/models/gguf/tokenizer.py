"""`tokenizer.json` and `tokenizer_config.json` from a GGUF file's metadata.

A GGUF keeps vocabulary, merges, scores and token types, and names the pre-tokenizer in one word; how text is split
before the merges is known only by that word. The splits below are those of the original repositories' tokenizer.json.
"""

from __future__ import annotations

import json
import logging
from typing import Any

from eet_demo.errors import CheckpointError, UnsupportedError
from eet_demo.models.gguf.metadata import Lookup, flag, token_id, whole

LOGGER = logging.getLogger(__name__)

_NORMAL, _CONTROL, _USER_DEFINED = 1, 3, 4  # gguf.TokenType
_ADDS_BOS = ("llama", "llama-bpe")  # where llama.cpp puts the first token unless the file says otherwise

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

_SPACE = "\u2581"


def tokenizer_files(lookup: Lookup, name: str) -> dict[str, str]:
    """`{file name: JSON text}` of the tokenizer that the metadata describes; ids are the file's own.

    Raises:
        CheckpointError: no vocabulary, or merges or scores missing.
        UnsupportedError: a tokenizer model or pre-tokenizer that is not known here; the message names what is.
    """
    tokens = lookup("tokenizer.ggml.tokens")
    if not tokens:
        raise CheckpointError(f"{name} has no vocabulary (tokenizer.ggml.tokens).")
    _check_texts(tokens, name)
    model = lookup("tokenizer.ggml.model")
    types = lookup("tokenizer.ggml.token_type", [_NORMAL] * len(tokens))
    if len(types) != len(tokens):
        raise CheckpointError(f"{name} has {len(tokens)} tokens but {len(types)} token types.")
    if model == "gpt2":
        tokenizer = _byte_level(lookup, tokens, name)
    elif model == "llama":
        tokenizer = _sentencepiece(lookup, tokens, types, name)
    else:
        raise UnsupportedError(
            f"{name} has the tokenizer '{model}'; gpt2 (byte-level BPE) and llama (SentencePiece) are supported."
        )
    config = _config(lookup, tokens, name)
    tokenizer = {"version": "1.0", "truncation": None, "padding": None} | tokenizer
    tokenizer["added_tokens"] = [
        _added(index, token, kind)
        for index, (token, kind) in enumerate(zip(tokens, types, strict=True))
        if kind in (_CONTROL, _USER_DEFINED)
    ]
    tokenizer["post_processor"] = _first_and_last(lookup, config, name)
    return {
        "tokenizer.json": json.dumps(tokenizer, ensure_ascii=False, separators=(",", ":")),
        "tokenizer_config.json": json.dumps(config, ensure_ascii=False, indent=2),
    }


def _added(index: int, token: str, kind: int) -> dict[str, Any]:
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    return {"id": index, "content": token, **flags, "special": kind == _CONTROL}


def _check_texts(tokens: list[Any], name: str) -> None:
    """A tokenizer.json knows a token by its text: of two with the same one would lose its id."""
    ids: dict[Any, int] = {}
    for index, token in enumerate(tokens):
        if not isinstance(token, str):
            raise CheckpointError(f"{name} has the token {str(token)[:40]!r}, which is no text.")
        if (first := ids.setdefault(token, index)) != index:
            raise UnsupportedError(
                f"{name} has the token {token[:40]!r} twice, as id {first} and as id {index}; a tokenizer here has "
                "each text once."
            )


def _first_and_last(lookup: Lookup, config: dict[str, Any], name: str) -> dict[str, Any] | None:
    """The post-processor that puts tokens around a text; None for none."""
    around = {}
    for place in ("bos", "eos"):
        if config[f"add_{place}_token"]:
            token = config.get(f"{place}_token")
            if token is None:
                raise CheckpointError(f"{name} asks for a {place} token around a text and has none.")
            around[place] = (token, whole(lookup(f"tokenizer.ggml.{place}_token_id"), f"{place}_token_id", name))
    if not around:
        return None
    start, end = (
        [{"SpecialToken": {"id": around[place][0], "type_id": 0}}] if place in around else []
        for place in ("bos", "eos")
    )
    first, second = ({"Sequence": {"id": letter, "type_id": number}} for number, letter in enumerate("AB"))
    return {
        "type": "TemplateProcessing",
        "single": [*start, first, *end],
        "pair": [*start, first, second, *end],
        "special_tokens": {token: {"id": token, "ids": [index], "tokens": [token]} for token, index in around.values()},
    }


def _bpe(tokens: list[str], merges: list[Any], **options: Any) -> dict[str, Any]:
    """The `model` of a tokenizer.json. `merges`: pairs, or two pieces with a space between."""
    return {
        "type": "BPE",
        "dropout": None,
        "unk_token": None,
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        "fuse_unk": False,
        "byte_fallback": False,
        "ignore_merges": False,
        **options,
        "vocab": {token: index for index, token in enumerate(tokens)},
        "merges": merges,
    }


def _byte_level(lookup: Lookup, tokens: list[str], name: str) -> dict[str, Any]:
    """GPT-2's scheme: text is split, each split is bytes, bytes are merged."""
    pre = lookup("tokenizer.ggml.pre")
    if pre is None:
        pre = "gpt-2"
        LOGGER.warning(
            "%s does not say how text is split (tokenizer.ggml.pre): taken as %s, which may be wrong", name, pre
        )
    if pre not in _PRE_TOKENIZERS:
        raise UnsupportedError(f"{name} splits text as '{pre}'; {', '.join(_PRE_TOKENIZERS)} are supported.")
    merges = lookup("tokenizer.ggml.merges")
    if not merges:
        raise CheckpointError(f"{name} has a byte-level vocabulary but no merges (tokenizer.ggml.merges).")
    return {
        "normalizer": None,
        "pre_tokenizer": _PRE_TOKENIZERS[pre],
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        "model": _bpe(tokens, merges, ignore_merges=pre == "llama-bpe"),
    }


def _sentencepiece(lookup: Lookup, tokens: list[str], types: list[int], name: str) -> dict[str, Any]:
    """Llama 2's scheme: a space is U+2581, and what the vocabulary lacks is spelled in byte tokens."""
    scores = lookup("tokenizer.ggml.scores")
    if not scores or len(scores) != len(tokens):
        raise CheckpointError(f"{name} has a SentencePiece vocabulary without a score for each token.")
    prefixed = flag(lookup, "tokenizer.ggml.add_space_prefix", True, name)
    spaces = {"type": "Replace", "pattern": {"String": " "}, "content": _SPACE}
    normalizers = [{"type": "Prepend", "prepend": _SPACE}, spaces] if prefixed else [spaces]
    decoders: list[dict[str, Any]] = [
        {"type": "Replace", "pattern": {"String": _SPACE}, "content": " "},
        {"type": "ByteFallback"},
        {"type": "Fuse"},
    ]
    if prefixed:
        decoders.append({"type": "Strip", "content": " ", "start": 1, "stop": 0})
    unknown = tokens[token_id(lookup, "unknown", len(tokens), name) or 0]
    merges = _merges(tokens, types, scores)
    return {
        "normalizer": {"type": "Sequence", "normalizers": normalizers},
        "pre_tokenizer": None,
        "decoder": {"type": "Sequence", "decoders": decoders},
        "model": _bpe(tokens, merges, unk_token=unknown, fuse_unk=True, byte_fallback=True),
    }


def _merges(tokens: list[str], types: list[int], scores: list[float]) -> list[tuple[str, str]]:
    """Every way to build a token from two others, best score first.

    SentencePiece keeps no merges: it joins the neighbours whose union scores highest (its bpe_model.cc), which a list
    in that order reproduces. Ties: the longer left piece first, as transformers' `generate_merges` has it.
    """
    pieces = {token for token, kind in zip(tokens, types, strict=True) if kind in (_NORMAL, _USER_DEFINED)}
    ranked = [
        (-score, -cut, cut - len(token), token)
        for token, score in zip(tokens, scores, strict=True)
        if token in pieces
        for cut in range(1, len(token))
        if token[:cut] in pieces and token[cut:] in pieces
    ]
    return [(token[:-left], token[-left:]) for _, left, _, token in sorted(ranked, key=lambda item: item[:3])]


def _adds_bos(lookup: Lookup) -> bool:
    scheme = (
        lookup("tokenizer.ggml.pre") if lookup("tokenizer.ggml.model") == "gpt2" else lookup("tokenizer.ggml.model")
    )
    return scheme in _ADDS_BOS and lookup("tokenizer.ggml.bos_token_id") is not None


def _config(lookup: Lookup, tokens: list[str], name: str) -> dict[str, Any]:
    config: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
        "add_bos_token": flag(lookup, "tokenizer.ggml.add_bos_token", _adds_bos(lookup), name),
        "add_eos_token": flag(lookup, "tokenizer.ggml.add_eos_token", False, name),
    }
    for role, key in {"bos": "bos", "eos": "eos", "unk": "unknown", "pad": "padding"}.items():
        index = token_id(lookup, key, len(tokens), name)
        if index is not None:
            config[f"{role}_token"] = tokens[index]
    architecture = lookup("general.architecture")
    config["model_max_length"] = whole(lookup(f"{architecture}.context_length"), "context_length", name)
    if template := lookup("tokenizer.chat_template"):
        config["chat_template"] = template
    return config
