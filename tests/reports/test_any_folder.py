"""Two sides of a race, one folder: whatever lies in it, transformers and the engine load one model, or neither does.

`EET_DEMO_TEST_FOLDERS=2000` tries as many, new ones each time; a plain run tries the same 200.
"""

from __future__ import annotations

import os
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from tests.reports.both import TINY, assert_alike, change_config, random_model, store, write_index

FOLDERS = int(os.environ.get("EET_DEMO_TEST_FOLDERS", "200"))
PREFIX = {"gpt2": "transformer", "gptj": "transformer", "bloom": "transformer", "gpt_neox": "gpt_neox"}
DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
SHARDS = ("part-0.safetensors", "part-1.safetensors")
EXTRAS = {
    "score.weight": (2, 16),
    "classifier.bias": (2,),
    "model.layers.7.mlp.up_proj.weight": (24, 16),
    "rotary_emb.inv_freq": (4,),
    "norm.bias": (16,),
}


@cache
def saved_model(model_type: str, tied: bool) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """config.json and tensors by the names of transformers' class."""
    model = random_model(model_type, tie_word_embeddings=tied)
    return model.config.to_diff_dict() | {"model_type": model_type}, dict(model.state_dict())


def names(model_type: str, stored: dict[str, torch.Tensor]) -> tuple[str, str]:
    """The head's and the embedding's."""
    return "lm_head.weight", next(name for name in stored if "emb" in name or name.endswith("wte.weight"))


@st.composite
def folders(draw: st.DrawFn) -> dict[str, Any]:
    """How a folder differs from what transformers would have saved; most things are as they should be."""
    rarely = st.integers(0, 9).map(lambda number: number == 0)
    return {
        "model_type": draw(st.sampled_from(sorted(TINY))),
        "tied": draw(st.booleans()),
        "said_tied": draw(st.sampled_from([True, False, None])),
        "head": draw(st.sampled_from(["as saved", "absent", "own", "same", "alone"])),
        "prefix": draw(st.sampled_from(["as saved", "as saved", "none", "twice", "mixed", "another"])),
        "dtypes": draw(st.lists(st.sampled_from(DTYPES), min_size=1, max_size=4)),
        "layout": draw(st.sampled_from(["file", "file", "shards", "file and stale shards", "shards and stale shard"])),
        "lost_shard": draw(rarely),
        "dropped": draw(st.integers(0, 40)) if draw(rarely) else None,
        "misshapen": draw(st.integers(0, 40)) if draw(rarely) else None,
        "repeated": draw(st.integers(0, 40)) if draw(rarely) else None,
        "extras": draw(st.lists(st.sampled_from(sorted(EXTRAS)), max_size=2, unique=True)),
    }


def tensors_of(plan: dict[str, Any], stored: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The tensors of a folder under the names it has them by."""
    head, tokens = names(plan["model_type"], stored)
    kept = dict(stored)
    if plan["head"] in ("absent", "own", "same"):
        kept.pop(head, None)
    if plan["head"] == "own":
        kept[head] = stored[tokens].flip(0)
    elif plan["head"] == "same":
        kept[head] = stored[tokens]
    elif plan["head"] == "alone":
        kept[head] = kept.pop(tokens)
    listed = sorted(kept)
    if plan["dropped"] is not None:
        del kept[listed[plan["dropped"] % len(listed)]]
    if plan["misshapen"] is not None and (name := listed[plan["misshapen"] % len(listed)]) in kept:
        kept[name] = torch.cat([kept[name], kept[name][:1]])
    renamed = {rename(name, i, plan): value for i, (name, value) in enumerate(kept.items())}
    if plan["repeated"] is not None and (name := listed[plan["repeated"] % len(listed)]) in kept:
        renamed.setdefault(name.removeprefix(f"{prefix_of(plan)}."), kept[name] + 1)
    dtypes = plan["dtypes"]
    cast = {name: value.to(dtypes[i % len(dtypes)]) for i, (name, value) in enumerate(renamed.items())}
    return cast | {name: torch.ones(EXTRAS[name]) for name in plan["extras"] if name not in cast}


def prefix_of(plan: dict[str, Any]) -> str:
    return PREFIX.get(plan["model_type"], "model")


def rename(name: str, number: int, plan: dict[str, Any]) -> str:
    prefix = f"{prefix_of(plan)}."
    match plan["prefix"]:
        case "none":
            return name.removeprefix(prefix)
        case "twice":
            return prefix + name
        case "mixed":
            return name.removeprefix(prefix) if number % 2 else name
        case "another":
            return name.replace(prefix, "decoder_model.")
    return name


def write(folder: Path, plan: dict[str, Any]) -> None:
    config, stored = saved_model(plan["model_type"], plan["tied"])
    (folder / "config.json").write_text("{}")
    said = {} if plan["said_tied"] is None else {"tie_word_embeddings": plan["said_tied"]}
    change_config(folder, ("dtype", "transformers_version"), **config | {"tie_word_embeddings": plan["tied"]} | said)
    tensors = tensors_of(plan, stored)
    stale = {name: value + 1 for name, value in tensors.items()}
    if plan["layout"].startswith("file"):
        store(folder, tensors)
    if plan["layout"] == "file":
        return
    in_shards = stale if plan["layout"] == "file and stale shards" else tensors
    parts = {file: sorted(in_shards)[i::2] for i, file in enumerate(SHARDS)}
    for file, listed in parts.items():
        store(folder, {name: in_shards[name] for name in listed}, file)
    write_index(folder, {name: file for file, listed in parts.items() for name in listed})
    if plan["layout"] == "shards and stale shard":
        store(folder, stale, "part-2.safetensors")
    if plan["lost_shard"]:
        (folder / SHARDS[1]).unlink()


@pytest.mark.filterwarnings("ignore")
@settings(max_examples=FOLDERS, deadline=None, suppress_health_check=list(HealthCheck), derandomize=FOLDERS == 200)
@given(folders())
def test_both_load_one_model_or_neither_loads_any(plan: dict[str, Any]) -> None:
    with tempfile.TemporaryDirectory() as name:
        write(Path(name), plan)
        event("both load it" if assert_alike(Path(name), told=plan) else "neither loads it")
