"""A small SentencePiece vocabulary as a GGUF keeps it, and the tokenizer built of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tokenizers import Tokenizer

from eet_demo.models.gguf.tokenizer import tokenizer_files

SPACE = "\u2581"
LETTERS = "abcdehlnorstw.,<>"
WORDS = {
    f"{SPACE}t": -1.0,
    "he": -2.0,
    f"{SPACE}the": -3.0,
    "or": -4.0,
    "ll": -5.0,
    "hello": -6.0,
    "hell": -7.0,
    f"{SPACE}hello": -8.0,
    "wor": -9.0,
    "world": -10.0,
    "ld": -11.0,
    f"{SPACE}{SPACE}": -12.0,
    "ello": -13.0,
    "lo": -14.0,
}


def sentencepiece_metadata(**changes: Any) -> dict[str, Any]:
    """Llama 2's layout: three control tokens, 256 bytes, then pieces with scores."""
    control = ["<unk>", "<s>", "</s>"]
    letters = [SPACE, *LETTERS]
    tokens = [*control, *(f"<0x{byte:02X}>" for byte in range(256)), *letters, *WORDS]
    scores = [0.0] * 259 + [-100.0 - n for n in range(len(letters))] + list(WORDS.values())
    types = [2, 3, 3] + [6] * 256 + [1] * (len(letters) + len(WORDS))
    return {
        "general.architecture": "llama",
        "llama.context_length": 96,
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.scores": scores,
        "tokenizer.ggml.token_type": types,
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.unknown_token_id": 0,
    } | changes


def sentencepiece(**changes: Any) -> Tokenizer:
    return Tokenizer.from_str(tokenizer_files(lookup_of(sentencepiece_metadata(**changes)), "m.gguf")["tokenizer.json"])


def lookup_of(values: Mapping[str, Any]) -> Any:
    return lambda key, default=None: values.get(key, default)
