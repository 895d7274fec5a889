"""A config with a field of another family (`sliding_window` in a llama): transformers' masks and caches read it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from eet_demo import Engine
from eet_demo.engine.families import spec_from_config
from eet_demo.engine.shapes import SHAPES, config_of
from eet_demo.errors import UnsupportedError
from tests.reports.both import IDS, TINY, change_config, engine_logits, saved, stock_logits

NEW = 12
WITHOUT_WINDOWS = ["llama", "granite", "olmo2", "gpt_neox", "stablelm", "gptj", "gpt2", "opt", "bloom"]
ROTARY_WITHOUT_HEAD_DIM = ["gpt_neox", "stablelm"]


def written_by_stock(folder: Path) -> list[int]:
    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
    model.generation_config.eos_token_id = None
    ids = torch.tensor([IDS])
    written = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=NEW, do_sample=False)
    new: list[int] = written[0, len(IDS) :].tolist()
    return new


def written_by_engine(folder: Path) -> list[int]:
    with Engine.from_pretrained(folder, "reference", max_batch=1, max_context=len(IDS) + NEW) as engine:
        return engine.generate([IDS], NEW).token_ids[0]


@pytest.mark.parametrize("field", ["sliding_window", "attention_chunk_size"])
@pytest.mark.parametrize("model_type", WITHOUT_WINDOWS)
def test_a_cache_that_forgets_is_refused(tmp_path: Path, model_type: str, field: str) -> None:
    with pytest.raises(UnsupportedError, match="a cache that forgets"):
        engine_logits(change_config_of(tmp_path, model_type, **{field: 5}))


@pytest.mark.parametrize("model_type", ["llama", "gpt_neox"])
@pytest.mark.parametrize("changed", [{"sliding_window": 64}, {"sliding_window": None}, {"is_causal": True}], ids=str)
def test_what_changes_nothing_is_taken(tmp_path: Path, model_type: str, changed: dict[str, Any]) -> None:
    folder = change_config_of(tmp_path, model_type, **changed)
    assert written_by_engine(folder) == written_by_stock(folder)


def test_stock_does_forget(tmp_path: Path) -> None:
    """Else there were nothing to refuse."""
    folder = change_config_of(tmp_path, "llama")
    whole = written_by_stock(folder)
    assert written_by_engine(folder) == whole
    change_config(folder, sliding_window=5)
    assert written_by_stock(folder) != whole


@pytest.mark.parametrize("model_type", TINY)
@pytest.mark.parametrize("value", [False, None])
def test_attention_to_later_tokens_is_refused(tmp_path: Path, model_type: str, value: bool | None) -> None:
    with pytest.raises(UnsupportedError, match="attention to later tokens"):
        engine_logits(change_config_of(tmp_path, model_type, is_causal=value))


@pytest.mark.parametrize("model_type", ROTARY_WITHOUT_HEAD_DIM)
def test_rotary_of_another_head_dim_is_refused(tmp_path: Path, model_type: str) -> None:
    with pytest.raises(UnsupportedError, match="a head dim other than"):
        engine_logits(change_config_of(tmp_path, model_type, head_dim=16))


@pytest.mark.parametrize("model_type", ["qwen2", "granite", "olmo2", "smollm3", "phi3"])
def test_null_where_the_class_has_no_head_dim(tmp_path: Path, model_type: str) -> None:
    folder = change_config_of(tmp_path, model_type, head_dim=None)
    assert isinstance(stock_logits(folder), str)
    with pytest.raises(UnsupportedError, match="null for its head dim"):
        engine_logits(folder)


@pytest.mark.parametrize("name", ["configuration_files", "kv_sharing_modes", "fusion_config", "transformers_weights"])
def test_a_field_that_leads_elsewhere_is_refused(name: str) -> None:
    with pytest.raises(UnsupportedError, match=name):
        spec_from_config({"model_type": "llama", name: ["x"]})


@pytest.mark.parametrize("shape", SHAPES)
def test_transformers_builds_every_shape(shape: str) -> None:
    """`shape:qwen2.5-0.5b` had null for a head_dim that its class does not have."""
    with torch.device("meta"):
        AutoModelForCausalLM.from_config(AutoConfig.for_model(**config_of(f"shape:{shape}") or {}))


def change_config_of(folder: Path, model_type: str, **changed: Any) -> Path:
    change_config(saved(folder, model_type), **changed)
    return folder
