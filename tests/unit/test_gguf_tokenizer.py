"""Tokenizers rebuilt from GGUF metadata give the ids of the tokenizers they came from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer
from transformers import AutoTokenizer

from eet_demo.errors import CheckpointError, UnsupportedError
from eet_demo.models.gguf.convert import convert
from eet_demo.models.gguf.file import GgufFile
from eet_demo.models.gguf.tokenizer import tokenizer_files
from tests.gguf_files import byte_level_tokenizer, random_model, write_gguf
from tests.sentencepieces import SPACE, lookup_of, sentencepiece, sentencepiece_metadata

TEXTS = (
    "Hello world",
    "The KV cache, explained: it's what we'll keep, isn't it?",
    "  two spaces\n\n\tand a tab \r\n",
    "numbers 1234567890 and 3.14159, 007",
    "def f(x):\n    return x**2  # quoted 'twice'",
    "naïve café, Ελληνικά, русский, עברית, العربية, 日本語",
    "emoji 🙂 👩‍👩‍👧 🇩🇪 end",
    "NUL \0 and a zero-width\u200bspace",
    "<|im_start|>user\nhi<|im_end|>\n",
    "",
    " ",
)


@pytest.fixture(scope="module")
def rebuilt(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("rebuilt")
    write_gguf(folder / "m.gguf", random_model("llama"))
    convert(folder / "m.gguf", folder)
    return folder


@pytest.mark.parametrize("text", TEXTS)
def test_byte_level_ids_equal_the_original_tokenizers(rebuilt: Path, text: str) -> None:
    original = byte_level_tokenizer(331)
    assert Tokenizer.from_file(str(rebuilt / "tokenizer.json")).encode(text).ids == original.encode(text).ids


@pytest.mark.slow
@pytest.mark.parametrize("text", TEXTS)
def test_default_models_ids_equal_transformers_gguf_tokenizer(model_dir: Path, text: str) -> None:
    """transformers takes the same vocabulary and merges from the file by code of its own."""
    theirs = _gguf_tokenizer(model_dir)
    assert Tokenizer.from_file(str(model_dir / "tokenizer.json")).encode(text).ids == theirs(text)["input_ids"]


_theirs: dict[Path, Any] = {}


def _gguf_tokenizer(folder: Path) -> Any:
    if folder not in _theirs:
        _theirs[folder] = AutoTokenizer.from_pretrained(folder, gguf_file=next(folder.glob("*.gguf")).name)
    return _theirs[folder]


def test_default_models_digits_stand_alone(model_dir: Path) -> None:
    """SmolLM2 splits digits of every script before bytes; transformers' GGUF reader, without that step, joins these."""
    tokenizer = Tokenizer.from_file(str(model_dir / "tokenizer.json"))
    text = "٣٤"
    alone = [index for char in text for index in tokenizer.encode(char).ids]
    assert tokenizer.encode(text).ids == alone


@pytest.mark.slow
def test_default_models_transformers_folder_tokenizer_is_the_same(model_dir: Path) -> None:
    loaded = AutoTokenizer.from_pretrained(model_dir)
    ours = Tokenizer.from_file(str(model_dir / "tokenizer.json"))
    for text in TEXTS:
        assert loaded(text)["input_ids"] == ours.encode(text).ids
    assert (loaded.bos_token_id, loaded.eos_token_id, loaded.pad_token_id) == (1, 2, 2)


@pytest.mark.parametrize(
    "text", ["hello world", "the hell, the lord", "hello  world", "hello\nworld", "Zürich 🙂", "the</s>", "tttt"]
)
def test_sentencepiece_ids_equal_transformers_gguf_tokenizer(tmp_path: Path, text: str) -> None:
    model = random_model("llama", vocab_size=len(sentencepiece_metadata()["tokenizer.ggml.tokens"]))
    vocabulary = {key: value for key, value in sentencepiece_metadata().items() if key.startswith("tokenizer")}
    leave_out = dict.fromkeys(["tokenizer.ggml.pre", "tokenizer.ggml.merges", "tokenizer.ggml.add_bos_token"])
    write_gguf(tmp_path / "m.gguf", model, metadata=vocabulary | leave_out)
    theirs = AutoTokenizer.from_pretrained(tmp_path, gguf_file="m.gguf")
    files = tokenizer_files(GgufFile(tmp_path / "m.gguf").value, "m.gguf")
    ours = Tokenizer.from_str(files["tokenizer.json"])
    assert ours.encode(text, add_special_tokens=False).ids == theirs(text, add_special_tokens=False)["input_ids"]
    assert ours.decode(ours.encode(text).ids) == theirs.decode(ours.encode(text).ids, skip_special_tokens=True)


def test_sentencepiece_puts_its_space_before_every_stretch_of_text() -> None:
    """As SentencePiece and llama.cpp do, and Llama 2's own tokenizer.json."""
    tokenizer = sentencepiece(**{"tokenizer.ggml.add_bos_token": False})
    assert tokenizer.encode("  hello").tokens == [SPACE * 2, f"{SPACE}hello"]
    assert tokenizer.encode("the</s>hello").tokens == [f"{SPACE}the", "</s>", f"{SPACE}hello"]


def test_sentencepiece_starts_with_bos_unless_the_file_says_no() -> None:
    assert sentencepiece().encode("hello").tokens == ["<s>", f"{SPACE}hello"]
    assert sentencepiece(**{"tokenizer.ggml.add_bos_token": False}).encode("hello").tokens == [f"{SPACE}hello"]


def test_sentencepiece_without_a_prefix_space() -> None:
    tokenizer = sentencepiece(**{"tokenizer.ggml.add_space_prefix": False})
    assert tokenizer.encode("hello", add_special_tokens=False).tokens == ["hello"]
    assert tokenizer.decode(tokenizer.encode(" hello").ids) == " hello"


def test_sentencepiece_spells_in_bytes_what_it_lacks() -> None:
    tokens = sentencepiece().encode("é", add_special_tokens=False).tokens
    assert tokens == [SPACE, "<0xC3>", "<0xA9>"]


def byte_level_metadata(**changes: Any) -> dict[str, Any]:
    tokenizer = byte_level_tokenizer(331)
    vocab = tokenizer.get_vocab()
    return {
        "general.architecture": "llama",
        "llama.context_length": 96,
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.tokens": sorted(vocab, key=vocab.__getitem__),
        "tokenizer.ggml.merges": [" ".join(pair) for pair in json.loads(tokenizer.to_str())["model"]["merges"]],
        "tokenizer.ggml.bos_token_id": 0,
    } | changes


def test_llama3_files_start_with_bos_and_keep_whole_words() -> None:
    text = tokenizer_files(lookup_of(byte_level_metadata(**{"tokenizer.ggml.pre": "llama-bpe"})), "m")["tokenizer.json"]
    assert Tokenizer.from_str(text).encode("a").tokens[0] == "<|endoftext|>"
    assert json.loads(text)["model"]["ignore_merges"] is True


def test_user_defined_tokens_stay_whole_but_are_not_special() -> None:
    values = byte_level_metadata()
    types = [3, 4] + [1] * 329
    text = tokenizer_files(lookup_of(values | {"tokenizer.ggml.token_type": types}), "m")["tokenizer.json"]
    tokenizer = Tokenizer.from_str(text)
    assert tokenizer.encode("x<|im_start|>").ids[-1] == 1
    assert tokenizer.decode([0, 1], skip_special_tokens=True) == "<|im_start|>"


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"tokenizer.ggml.model": "bert"}, UnsupportedError, r"'bert'.*gpt2.*llama"),
        ({"tokenizer.ggml.pre": "deepseek-llm"}, UnsupportedError, r"'deepseek-llm'.*smollm"),
        ({"tokenizer.ggml.tokens": []}, CheckpointError, "no vocabulary"),
        ({"tokenizer.ggml.merges": []}, CheckpointError, "no merges"),
        ({"tokenizer.ggml.token_type": [1, 1]}, CheckpointError, "331 tokens but 2 token types"),
        ({"tokenizer.ggml.model": "llama"}, CheckpointError, "without a score"),
    ],
)
def test_tokenizer_that_cannot_be_built_is_refused(changes: dict[str, Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        tokenizer_files(lookup_of(byte_level_metadata(**changes)), "m.gguf")
