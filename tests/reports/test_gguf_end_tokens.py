"""GGUF with `tokenizer.ggml.eot_token_id` beside eos: "stop at the end of text" runs through the turn."""

from __future__ import annotations

import json
from pathlib import Path

import gguf
import pytest

from eet_demo.errors import CheckpointError
from eet_demo.text.tokens import Tokenizer
from tests.gguf_files import Typed
from tests.reports.ggufs import config_of, converted


@pytest.mark.parametrize("name", ["eot", "eom", "fim_pad", "fim_rep", "fim_sep"])
def test_every_end_token_ends(tmp_path: Path, name: str) -> None:
    folder = converted(tmp_path, **{f"tokenizer__ggml__{name}_token_id": 7})
    assert Tokenizer(folder).stop_ids == (2, 7)
    for file in ("config.json", "generation_config.json"):
        assert json.loads((folder / file).read_text())["eos_token_id"] == [2, 7], file


def test_all_at_once_each_once(tmp_path: Path) -> None:
    ends = {f"tokenizer__ggml__{name}_token_id": i for name, i in (("eot", 9), ("eom", 4), ("fim_pad", 2))}
    assert config_of(tmp_path, **ends)["eos_token_id"] == [2, 9, 4]


def test_an_end_of_turn_alone(tmp_path: Path) -> None:
    folder = converted(tmp_path, tokenizer__ggml__eos_token_id=None, tokenizer__ggml__eot_token_id=7)
    assert Tokenizer(folder).stop_ids == (7,)


@pytest.mark.parametrize("none", [-1, 2**32 - 1])
def test_no_token_is_no_end(tmp_path: Path, none: int) -> None:
    kind = gguf.GGUFValueType.INT32 if none < 0 else gguf.GGUFValueType.UINT32
    assert config_of(tmp_path, tokenizer__ggml__eot_token_id=Typed(none, kind))["eos_token_id"] == 2


@pytest.mark.parametrize("name", ["bos", "eos", "eot", "padding"])
def test_an_id_outside_the_vocabulary_is_named(tmp_path: Path, name: str) -> None:
    with pytest.raises(CheckpointError, match=rf"tokenizer\.ggml\.{name}_token_id is '331', .* vocabulary of 331"):
        config_of(tmp_path, **{f"tokenizer__ggml__{name}_token_id": 331})


def test_an_end_around_every_text(tmp_path: Path) -> None:
    """`add_eos_token`, as a tokenizer.json has it: in the post-processor."""
    folder = converted(tmp_path, tokenizer__ggml__add_eos_token=True, tokenizer__ggml__add_bos_token=True)
    added = json.loads((folder / "tokenizer.json").read_text())["post_processor"]["special_tokens"]
    assert sorted(token["ids"] for token in added.values()) == [[1], [2]]
