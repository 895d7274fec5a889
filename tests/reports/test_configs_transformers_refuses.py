"""A config that transformers' own class refuses: a bare StrictDataclassFieldValidationError out of stock's side."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from eet_demo.errors import CheckpointError
from eet_demo.sides.side import SideOptions
from eet_demo.sides.stock import BaselineSide
from tests.reports.both import change_config, saved

CHANGED: list[dict[str, Any]] = [
    {"hidden_size": "16"},
    {"rms_norm_eps": 1},
    {"num_attention_heads": 0},
    {"num_attention_heads": None},
    {"rope_scaling": [4.0]},
    {"rope_scaling": {"rope_type": "yarn"}},
    {"layer_types": ["full_attention"]},
    {"id2label": 5},
    {"hidden_act": "none"},
    {"rope_parameters": {"rope_type": "none"}},
    {"vocab_size": -1},
]


@pytest.mark.parametrize("changed", CHANGED, ids=str)
def test_it_is_an_error_of_ours(tmp_path: Path, changed: dict[str, Any]) -> None:
    change_config(saved(tmp_path), **changed)
    with pytest.raises(CheckpointError, match="transformers cannot load"):
        BaselineSide(SideOptions("stock", str(tmp_path), "cpu", "float32", "dense", 1, 1, 32)).load()
