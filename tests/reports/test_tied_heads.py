"""`tie_word_embeddings: true` and a file with a head of its own: "tied weights mapping ... but both are present"."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from eet_demo.engine.checkpoint import Checkpoint
from eet_demo.errors import CheckpointError
from tests.reports.both import TINY, assert_same, change_config, engine_logits, saved, stock_logits, store, tensors

HEADS = {
    "gpt_neox": ("embed_out.weight", "gpt_neox.embed_in.weight"),
    "gpt2": ("lm_head.weight", "transformer.wte.weight"),
    "gptj": ("lm_head.weight", "transformer.wte.weight"),
    "bloom": ("lm_head.weight", "transformer.word_embeddings.weight"),
    "opt": ("lm_head.weight", "model.decoder.embed_tokens.weight"),
}
EMBEDDED = ("lm_head.weight", "model.embed_tokens.weight")


def names(model_type: str) -> tuple[str, str]:
    return HEADS.get(model_type, EMBEDDED)


@pytest.mark.parametrize("model_type", TINY)
@pytest.mark.parametrize("same", [False, True])
def test_head_beside_its_embedding(tmp_path: Path, model_type: str, same: bool) -> None:
    """Different numbers are a head of its own, the same ones the embedding, whatever they are stored as."""
    folder = saved(tmp_path, model_type, tie_word_embeddings=True)
    head, tokens = names(model_type)
    stored = tensors(folder)
    embedding = stored[tokens].half()
    stored[tokens] = embedding.float()
    stored[head] = embedding if same else torch.randn_like(embedding, dtype=torch.float32)
    store(folder, stored)
    assert Checkpoint(folder).spec.tied_head == same
    assert_same(folder)


@pytest.mark.parametrize("model_type", TINY)
def test_only_the_head_is_there(tmp_path: Path, model_type: str) -> None:
    folder = saved(tmp_path, model_type, tie_word_embeddings=True)
    head, tokens = names(model_type)
    stored = tensors(folder)
    stored[head] = stored.pop(tokens)
    store(folder, stored)
    assert_same(folder)


@pytest.mark.parametrize("absent", EMBEDDED)
def test_untied_and_one_of_them_absent(tmp_path: Path, absent: str) -> None:
    """transformers would draw it; its side refuses, and so does the engine."""
    folder = saved(tmp_path, tie_word_embeddings=False)
    stored = tensors(folder)
    del stored[absent]
    store(folder, stored)
    assert "missing" in str(stock_logits(folder))
    with pytest.raises(CheckpointError, match=f"{absent} is missing"):
        engine_logits(folder)


def test_tied_head_of_another_shape(tmp_path: Path) -> None:
    folder = saved(tmp_path, tie_word_embeddings=True)
    store(folder, tensors(folder) | {"lm_head.weight": torch.ones(25, 16)})
    assert isinstance(stock_logits(folder), str)
    with pytest.raises(CheckpointError, match=r"lm_head.weight has shape \(25, 16\)"):
        engine_logits(folder)


def test_a_head_that_is_written_anew_is_looked_at_anew(tmp_path: Path) -> None:
    folder = saved(tmp_path, tie_word_embeddings=True)
    stored = tensors(folder)
    store(folder, stored | {"lm_head.weight": stored["model.embed_tokens.weight"]})
    assert Checkpoint(folder).spec.tied_head
    store(folder, stored | {"lm_head.weight": stored["model.embed_tokens.weight"] + 1})
    assert not Checkpoint(folder).spec.tied_head
    change_config(folder, tie_word_embeddings=False)
    assert_same(folder)
