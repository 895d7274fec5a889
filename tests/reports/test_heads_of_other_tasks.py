"""A reward model's `score.weight`, a classifier, a layer too many: "is in the files but not in the config"."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch

from tests.reports.both import assert_same, saved, store, tensors

EXTRAS = {
    "score.weight": (2, 16),
    "classifier.bias": (2,),
    "v_head.summary.weight": (1, 16),
    "model.layers.0.self_attn.q_proj.bias": (16,),
    "model.layers.2.mlp.up_proj.weight": (24, 16),
}


@pytest.mark.parametrize("name", EXTRAS)
def test_left_aside_with_a_note(tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture) -> None:
    store(tmp_path, tensors(saved(tmp_path)) | {name: torch.randn(EXTRAS[name])})
    with caplog.at_level(logging.WARNING, "eet_demo"):
        assert_same(tmp_path)
    assert name in caplog.text


@pytest.mark.parametrize("name", ["model.layers.0.self_attn.rotary_emb.inv_freq", "lm_head.weight"])
def test_what_older_versions_saved_needs_no_note(tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture) -> None:
    stored = tensors(saved(tmp_path, tie_word_embeddings=True))
    store(tmp_path, stored | {name: stored["model.embed_tokens.weight"].clone()})
    with caplog.at_level(logging.WARNING, "eet_demo"):
        assert_same(tmp_path)
    assert not caplog.text
