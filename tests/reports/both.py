"""A tiny model folder, and what transformers and the engine each make of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from eet_demo import Engine
from eet_demo.errors import EetError

VOCAB = 24
IDS = [3, 17, 0, 9, 22, 5, 11, 1, 8, 20, 2, 14]

WIDE: dict[str, Any] = {
    "vocab_size": VOCAB, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2,
    "num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 32, "head_dim": 8,
    "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
GPT: dict[str, Any] = {"vocab_size": VOCAB, "n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 32}
TINY: dict[str, dict[str, Any]] = {
    "gpt2": GPT,
    "gptj": GPT | {"rotary_dim": 4},
    "bloom": {"vocab_size": VOCAB, "hidden_size": 16, "n_layer": 2, "n_head": 2},
    "opt": WIDE | {"ffn_dim": 24, "word_embed_proj_dim": 16},
    "gpt_neox": WIDE | {"rotary_pct": 0.5},
    "stablelm": WIDE | {"partial_rotary_factor": 0.5},
} | dict.fromkeys(
    ("gemma2", "gemma3_text", "granite", "llama", "mistral", "olmo2", "phi3", "qwen2", "qwen3", "smollm3"),
    WIDE,
)
"""By `model_type`: 2 layers, 16 wide."""


def random_model(model_type: str, seed: int = 0, **fields: Any) -> PreTrainedModel:
    """transformers' own class of it, float32, every parameter drawn, so that none is missed where it is 0 or 1."""
    config = AutoConfig.for_model(model_type, **(TINY[model_type] | fields))
    torch.manual_seed(seed)
    model: PreTrainedModel = AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(1.0 if parameter.ndim == 1 else 0.0, 0.3)
    return model


def saved(folder: Path, model_type: str = "llama", seed: int = 0, **fields: Any) -> Path:
    random_model(model_type, seed, **fields).save_pretrained(folder)
    return folder


def change_config(folder: Path, drop: tuple[str, ...] = (), **changed: Any) -> None:
    config = json.loads((folder / "config.json").read_text()) | changed
    (folder / "config.json").write_text(json.dumps({key: value for key, value in config.items() if key not in drop}))


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def store(folder: Path, stored: dict[str, torch.Tensor], name: str = "model.safetensors") -> None:
    save_file({key: value.clone().contiguous() for key, value in stored.items()}, folder / name, {"format": "pt"})


def write_index(folder: Path, weight_map: dict[str, str]) -> None:
    index = {"metadata": {"total_size": 1}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def engine_logits(folder: Path, ids: list[int] | None = None) -> np.ndarray:
    """float32 (len(ids), vocabulary). Raises EetError."""
    ids = ids or IDS
    with Engine.from_pretrained(folder, "reference", max_batch=1, max_context=len(ids)) as engine:
        return np.concatenate([logits for _, _, logits in engine.logits([ids])])


def stock_logits(folder: Path, ids: list[int] | None = None) -> np.ndarray | str:
    """The same of transformers; in words why it has none. Tensors that are missing it would invent: that is no load."""
    auto: Any = AutoModelForCausalLM
    try:
        model, report = auto.from_pretrained(
            folder, dtype=torch.float32, attn_implementation="eager", use_safetensors=True, output_loading_info=True
        )
    except Exception as error:  # whatever it trips over, it has no model
        return f"{type(error).__name__}: {error}"
    if report["missing_keys"]:
        return f"missing: {sorted(report['missing_keys'])}"
    with torch.no_grad():
        values: np.ndarray = model(torch.tensor([ids or IDS])).logits[0].float().numpy()
    return values


def assert_alike(folder: Path, ids: list[int] | None = None, told: object = "") -> bool:
    """Both load it and agree in every logit, or neither loads it; whether they did."""
    theirs = stock_logits(folder, ids)
    if isinstance(theirs, str):
        with pytest.raises(EetError):
            engine_logits(folder, ids)
        return False
    np.testing.assert_allclose(engine_logits(folder, ids), theirs, rtol=1e-4, atol=2e-4, err_msg=str(told))
    return True


def assert_same(folder: Path, ids: list[int] | None = None) -> None:
    """Both load it and agree in every logit."""
    theirs = stock_logits(folder, ids)
    assert not isinstance(theirs, str), theirs
    np.testing.assert_allclose(engine_logits(folder, ids), theirs, rtol=1e-4, atol=2e-4)
