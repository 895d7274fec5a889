"""Text to ids and back for a model folder, on `tokenizers` alone: what both sides and the page share.

Ids that a visitor's words become never include control tokens: `<|im_end|>` typed into a prompt is text.
"""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import tokenizers

from eet_demo.errors import CheckpointError, UnsupportedError
from eet_demo.text import chat_template
from eet_demo.text.chat_template import Message

_SPECIAL_NAMES = ("bos_token", "eos_token", "unk_token", "pad_token", "sep_token", "cls_token", "mask_token")
_CONTENT_MARK = "\ue000content\ue000"  # private use: no template and no document contains it


class IncrementalDecoder(Protocol):
    """Ids of one row in, text out, as early as it is certain.

    The pieces of `push` and the remainder of `flush`, joined, equal `Tokenizer.decode` of the ids, also when the row
    ends inside a character of several bytes. Each push costs the token's own bytes, however long the row is.

    `tokenizers.decoders.DecodeStream` does neither: of SentencePiece's byte tokens it hands out what a later byte
    shows to be no UTF-8 (then it raises, or its pieces are no prefix of the whole), and it decodes again, with every
    id, all that it holds back.
    """

    def push(self, token_id: int) -> str:
        """The text that this id completes; may be empty."""

    def flush(self) -> str:
        """What was held back, with U+FFFD for bytes that never became a character; the decoder is new afterwards."""


class Tokenizer:
    """The tokenizer of one model folder. Immutable once built, so threads may share it.

    Raises:
        CheckpointError: no readable tokenizer.json in the folder.
        UnsupportedError: a decoder that is neither byte-level nor SentencePiece with byte fallback.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        path = folder / "tokenizer.json"
        if not path.is_file():
            raise CheckpointError(f"{folder} has no tokenizer.json, so text cannot be turned into ids.")
        try:
            self._control = tokenizers.Tokenizer.from_file(str(path))
        except Exception as error:  # the Rust side raises bare Exception
            raise CheckpointError(f"{path} cannot be read: {error}") from error
        self._plain = tokenizers.Tokenizer.from_file(str(path))
        self._plain.encode_special_tokens = True
        self._config = _read_json(folder / "tokenizer_config.json")
        decoder = json.loads(self._control.to_str())["decoder"]
        self._pieces = _pieces_of(decoder, self._control, path)

    def encode(self, text: str) -> list[int]:
        """Ids of plain text: nothing is put before or after it, and control tokens in it are spelled out.

        Lone surrogates (half an emoji from a broken client) become U+FFFD first, as browsers do.
        """
        return list(self._plain.encode(clean(text), add_special_tokens=False).ids)

    def encode_control(self, text: str) -> list[int]:
        """Ids of text that a template wrote: `<|im_start|>` is one id."""
        return list(self._control.encode(clean(text), add_special_tokens=False).ids)

    def decode(self, token_ids: Sequence[int]) -> str:
        """The text of ids, control tokens included; ids outside the vocabulary have no text."""
        return str(self._control.decode(list(token_ids), skip_special_tokens=False))

    def unwritable(self, text: str) -> list[str]:
        """Characters of `text` for which this vocabulary has no ids; they would vanish from the prompt."""
        return sorted(char for char in set(clean(text)) if self.decode(self.encode(char)) != char)

    def incremental(self) -> IncrementalDecoder:
        return self._pieces.decoder()

    @property
    def vocab_size(self) -> int:
        """Ids of the tokenizer; the model's own `vocab_size` may be padded beyond it."""
        return int(self._control.get_vocab_size(with_added_tokens=True))

    @cached_property
    def prefix_ids(self) -> list[int]:
        """What goes before a plain text, e.g. the id of `<s>`; empty for most byte-level models."""
        return list(self._control.encode("", add_special_tokens=True).ids)

    @cached_property
    def special_tokens(self) -> dict[str, str]:
        found = {name: self._config.get(name) for name in _SPECIAL_NAMES}
        texts = {name: value["content"] if isinstance(value, dict) else value for name, value in found.items()}
        return {name: text for name, text in texts.items() if isinstance(text, str)}

    @cached_property
    def stop_ids(self) -> tuple[int, ...]:
        """Every id that ends an answer: of generation_config.json, config.json and the tokenizer's eos token."""
        ids: set[int] = set()
        for name in ("generation_config.json", "config.json"):
            value = _read_json(self.folder / name).get("eos_token_id")
            ids.update(value if isinstance(value, list) else [] if value is None else [value])
        eos = self.special_tokens.get("eos_token")
        index = self._control.token_to_id(eos) if eos is not None else None
        return tuple(sorted(ids | ({index} if index is not None else set())))

    @cached_property
    def template(self) -> str | None:
        """The folder's chat template; None for a base model."""
        file = self.folder / "chat_template.jinja"
        if file.is_file():
            return file.read_text(encoding="utf-8")
        template = self._config.get("chat_template")
        if isinstance(template, list):  # several named ones; "default" is the one for plain conversations
            template = next((item["template"] for item in template if item.get("name") == "default"), None)
        return template if isinstance(template, str) else None

    def chat(self, messages: Sequence[Message]) -> list[int] | None:
        """Ids of a conversation up to where the assistant answers; None for a base model."""
        if self.template is None:
            return None
        return self.encode_control(chat_template.render(self.template, messages, self.special_tokens))

    @cached_property
    def chat_frame(self) -> tuple[list[int], list[int]] | None:
        """Ids that the template puts before and after one user message; None for a base model."""
        if self.template is None:
            return None
        messages = [{"role": "user", "content": _CONTENT_MARK}]
        text = chat_template.render(self.template, messages, self.special_tokens)
        before, mark, after = text.partition(_CONTENT_MARK)
        if not mark:
            raise CheckpointError(f"The chat template of {self.folder} leaves out what the user says.")
        return self.encode_control(before), self.encode_control(after)


def clean(text: str) -> str:
    """`text` with lone surrogates as U+FFFD; everything else is kept, NUL and right-to-left marks included."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _read_json(path: Path) -> dict[str, Any]:
    """The object in a file that a folder need not have."""
    if not path.is_file():
        return {}
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CheckpointError(f"{path} is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{path} holds no JSON object.")
    return value


class _ByteLevelPieces:
    """Each id is a run of bytes; the text is their UTF-8, decoded as a whole (GPT-2, SmolLM2, Llama 3, Qwen)."""

    def __init__(self, tokenizer: tokenizers.Tokenizer) -> None:
        alphabet = byte_alphabet()
        self.bytes_of = {index: _byte_level(token, alphabet) for token, index in tokenizer.get_vocab().items()}

    def decoder(self) -> IncrementalDecoder:
        return _ByteLevelDecoder(self.bytes_of)


class _ByteLevelDecoder:
    def __init__(self, bytes_of: dict[int, bytes]) -> None:
        self._bytes_of = bytes_of
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, token_id: int) -> str:
        return self._utf8.decode(self._bytes_of.get(token_id, b""))

    def flush(self) -> str:
        text = self._utf8.decode(b"", final=True)
        self._utf8.reset()
        return text


def byte_alphabet() -> dict[str, int]:
    """GPT-2's letters for bytes: printable ones stand for themselves, the rest for 256, 257, ... in order."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + n): byte for n, byte in enumerate(others)}


def _byte_level(token: str, alphabet: dict[str, int]) -> bytes:
    """A token's bytes; one with any letter outside the alphabet (an added token) is its own UTF-8."""
    if all(letter in alphabet for letter in token):
        return bytes(alphabet[letter] for letter in token)
    return token.encode()


class _SentencePieces:
    """Tokens are text with U+2581 for a space; `<0xE2>` is one byte (Llama 2, TinyLlama)."""

    def __init__(self, tokenizer: tokenizers.Tokenizer, strips_left: bool) -> None:
        self.token_of = {index: token for token, index in tokenizer.get_vocab().items()}
        self.strips_left = strips_left

    def decoder(self) -> IncrementalDecoder:
        return _SentencePieceDecoder(self.token_of, self.strips_left)


class _SentencePieceDecoder:
    """Byte tokens are held until another token ends their run: only then is it known whether the run is UTF-8."""

    def __init__(self, token_of: dict[int, str], strips_left: bool) -> None:
        self._token_of = token_of
        self._strips_left = strips_left
        self._run = bytearray()
        self._at_start = True

    def push(self, token_id: int) -> str:
        token = self._token_of.get(token_id)
        if token is None:
            return ""
        if (byte := _byte_of(token)) is not None:
            self._run.append(byte)
            return ""
        return self._emit(self._end_run() + token.replace("\u2581", " "))

    def flush(self) -> str:
        text = self._emit(self._end_run())
        self._at_start = True
        return text

    def _end_run(self) -> str:
        try:
            text = self._run.decode("utf-8")
        except UnicodeDecodeError:
            text = "\ufffd" * len(self._run)
        self._run.clear()
        return text

    def _emit(self, text: str) -> str:
        if text and self._at_start:
            self._at_start = False
            return text[1:] if self._strips_left and text[0] == " " else text
        return text


def _byte_of(token: str) -> int | None:
    """The byte that `<0xE2>` names; None for any other token."""
    if len(token) != 6 or not token.startswith("<0x") or not token.endswith(">"):
        return None
    try:
        return int(token[3:5], 16)
    except ValueError:
        return None


def _pieces_of(decoder: Any, tokenizer: tokenizers.Tokenizer, path: Path) -> _ByteLevelPieces | _SentencePieces:
    steps: Iterable[Any] = decoder.get("decoders", [decoder]) if isinstance(decoder, dict) else []
    kinds = [step["type"] for step in steps]
    if kinds == ["ByteLevel"]:
        return _ByteLevelPieces(tokenizer)
    if kinds in (["Replace", "ByteFallback", "Fuse"], ["Replace", "ByteFallback", "Fuse", "Strip"]):
        return _SentencePieces(tokenizer, strips_left="Strip" in kinds)
    found = " + ".join(kinds) or "nothing"
    raise UnsupportedError(f"{path} decodes by {found}; ByteLevel and SentencePiece with ByteFallback are supported.")
