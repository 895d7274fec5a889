"""Weights saved by the base class (`LlamaModel`, `Qwen3Model`): "holds no tensor model.embed_tokens.weight"."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.reports.both import TINY, assert_alike, assert_same, random_model, saved, store, tensors


@pytest.mark.parametrize("model_type", TINY)
def test_saved_by_the_base_class(tmp_path: Path, model_type: str) -> None:
    model: Any = random_model(model_type, tie_word_embeddings=True)
    model.base_model.save_pretrained(tmp_path)
    (assert_alike if model_type == "gptj" else assert_same)(tmp_path)  # a GPT-J's head has a bias, which nothing gives


@pytest.mark.parametrize("model_type", TINY)
def test_prefix_once_more(tmp_path: Path, model_type: str) -> None:
    """The reverse: everything, the head too, under the base class's name."""
    model = random_model(model_type)
    model.save_pretrained(tmp_path)
    prefix = model.base_model_prefix
    stored = {key.replace("embed_out", "lm_head"): value for key, value in tensors(tmp_path).items()}
    store(tmp_path, {f"{prefix}.{name}": value for name, value in stored.items()})
    assert_same(tmp_path)


def test_some_names_with_and_some_without(tmp_path: Path) -> None:
    stored = tensors(saved(tmp_path))
    odd = {name.removeprefix("model.") if i % 2 else name: value for i, (name, value) in enumerate(stored.items())}
    store(tmp_path, odd)
    assert_same(tmp_path)


@pytest.mark.parametrize("name", ["norm.weight", "layers.1.mlp.up_proj.weight", "embed_tokens.weight"])
def test_both_names_of_one_tensor(tmp_path: Path, name: str) -> None:
    stored = tensors(saved(tmp_path))
    store(tmp_path, stored | {name: torch.randn_like(stored[f"model.{name}"])})
    assert_same(tmp_path)


def test_prefix_of_another_family_is_none(tmp_path: Path) -> None:
    stored = tensors(saved(tmp_path))
    store(tmp_path, {name.replace("model.", "transformer."): value for name, value in stored.items()})
    assert_alike(tmp_path)
