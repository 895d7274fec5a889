"""GGUF metadata that is not understood: dropped, and the model computes something else than llama.cpp's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import pytest

from eet_demo.errors import EetError, UnsupportedError
from eet_demo.models.gguf.metadata import NEUTRAL, SAYS_NOTHING, TOKENIZER_KEYS, USED
from tests.reports.ggufs import config_of


def keys_of(group: Any) -> list[str]:
    found = [value for name, value in vars(group).items() if isinstance(value, str) and not name.startswith("_")]
    return [key.removeprefix("{arch}.") for key in found if key.startswith("{arch}.")]


GROUPS = [group for group in vars(gguf.Keys).values() if isinstance(group, type)]
EVERY = sorted({key for group in GROUPS for key in keys_of(group)} | {"rope.scale_linear"})


YARN: dict[str, Any] = {"llama.rope.scaling.type": "yarn", "llama.rope.scaling.factor": 2.0}


@pytest.fixture(scope="module")
def usual(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    return [config_of(tmp_path_factory.mktemp("usual"), **given) for given in ({}, YARN)]


@pytest.mark.parametrize("key", EVERY)
def test_every_key_is_used_or_refused_by_name(tmp_path: Path, key: str, usual: list[dict[str, Any]]) -> None:
    """With a value that no llama has: the config tells it from the usual one, or the error names the key."""
    given = YARN if key.startswith("rope.scaling") else {}
    try:
        config = config_of(tmp_path, **given | {f"llama.{key}": 3})
    except EetError as error:
        named = key in str(error) or key in EXPLAINED
    else:
        named = key in SAYS_NOTHING or config not in usual
    assert named


EXPLAINED = ("block_count", "rope.dimension_count", "vocab_size", "attention.key_length", "attention.value_length",
             "attention.head_count", "attention.head_count_kv", "rope.scaling.type")  # fmt: skip
"""Refused in words of their own."""


@pytest.mark.parametrize("key", NEUTRAL)
def test_a_value_that_asks_for_nothing_is_taken(tmp_path: Path, key: str) -> None:
    value = NEUTRAL[key][0]
    kept = value if isinstance(value, bool) else float(value)
    config_of(tmp_path, **YARN | {f"llama.{key}": kept})


@pytest.mark.parametrize("key", ["llama.some.new", "tokenizer.ggml.some_new", "tokenizer.ggml.add_sep_token"])
def test_what_nobody_knows_is_refused_by_name(tmp_path: Path, key: str) -> None:
    with pytest.raises(UnsupportedError, match=key.replace(".", r"\.")):
        config_of(tmp_path, **{key: 1})


@pytest.mark.parametrize(("key", "value"), [
    ("general.type", "adapter"), ("general.type", "mmproj"), ("general.quantization_version", 1), ("split.count", 3),
])  # fmt: skip
def test_a_file_that_is_no_whole_model(tmp_path: Path, key: str, value: Any) -> None:
    with pytest.raises(UnsupportedError, match=key.replace(".", r"\.")):
        config_of(tmp_path, **{key: value})


@pytest.mark.parametrize("key", ["general.author", "quantize.imatrix.file", "somebody.note", "general.file_type"])
def test_notes_are_no_reason_to_refuse(tmp_path: Path, key: str) -> None:
    assert config_of(tmp_path, **{key: 7})["model_type"] == "llama"


def test_tables_name_each_key_once() -> None:
    for used in USED.values():
        assert not set(used) & (NEUTRAL.keys() | set(SAYS_NOTHING))
    assert len(set(TOKENIZER_KEYS)) == len(TOKENIZER_KEYS)
