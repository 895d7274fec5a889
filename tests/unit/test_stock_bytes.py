"""What stock will need, from headers and configs alone."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from eet_demo.errors import CheckpointError
from eet_demo.sides import stock_bytes as estimate
from eet_demo.sides.side import SideOptions
from eet_demo.sides.stock_bytes import checkpoint_elements, stock_bytes

OPTIONS = SideOptions("stock", "", "cpu", "float32", "dense", 2, 1, 100)


def test_stock_estimate_holds_for_the_default_model(model_dir: Path) -> None:
    """Weights are exact; the rest grows with what drives it: the context, a batch's mask, eager attention's scores."""
    base = dataclasses.replace(OPTIONS, model_path=str(model_dir), max_context=1024)
    assert checkpoint_elements(model_dir) == 134_515_008
    weights = 4 * checkpoint_elements(model_dir)
    assert weights < stock_bytes(base) < weights + 300_000_000
    kv = 2 * 30 * 3 * 64 * 4 * 1024
    longer = stock_bytes(dataclasses.replace(base, max_context=2048)) - stock_bytes(base)
    assert longer > kv
    eager = stock_bytes(dataclasses.replace(base, side="stock-eager")) - stock_bytes(base)
    assert eager >= 9 * 1024 * 1024 * 4
    assert stock_bytes(dataclasses.replace(base, dtype="bfloat16")) < stock_bytes(base) * 0.6


@pytest.mark.parametrize(("side", "slots"), [("stock-static", 3 * 100 + 9 * 20), ("stock", 12 * 100)])
def test_static_cache_is_cut_to_each_layers_window(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, side: str, slots: int
) -> None:
    """A dynamic one holds the whole prompt in every layer until the first decode step."""
    config: dict[str, Any] = {
        "model_type": "qwen2", "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 12, "vocab_size": 96,
        "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 512, "rms_norm_eps": 1e-6,
    }  # fmt: skip
    windows = {"use_sliding_window": True, "sliding_window": 20, "max_window_layers": 3}
    monkeypatch.setattr(estimate, "checkpoint_elements", lambda folder: 0)
    needed = []
    for fields in (config | windows, config):
        (tmp_path / "config.json").write_text(json.dumps(fields))
        needed.append(stock_bytes(dataclasses.replace(OPTIONS, side=side, model_path=str(tmp_path))))
    slot_bytes = 2 * 2 * 16 * 4
    assert needed[1] - needed[0] == (12 * 100 - slots) * slot_bytes


@pytest.mark.parametrize("content", [b"", b"\x05\x00\x00\x00\x00\x00\x00\x00{bad}", b"\x10" * 4])
def test_a_broken_checkpoint_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "model.safetensors").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"model\.safetensors"):
        checkpoint_elements(tmp_path)


def test_a_folder_without_weights_is_named(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"hidden_size": 8}))
    with pytest.raises(CheckpointError, match=r"neither model\.safetensors nor"):
        checkpoint_elements(tmp_path)
