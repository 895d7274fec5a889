"""GGUF `llama.rope.scale_linear = 4.0`, or `rope.scaling.factor` without a type: ignored; llama.cpp takes linear, 4."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from eet_demo.errors import CheckpointError, UnsupportedError
from tests.reports.both import assert_same
from tests.reports.ggufs import config_of, converted

LINEAR = {"rope_type": "linear", "factor": 4.0}
FACTOR, TYPE = "llama__rope__scaling__factor", "llama__rope__scaling__type"


@pytest.mark.parametrize(
    ("metadata", "scaling"),
    [
        ({"llama__rope__scale_linear": 4.0}, LINEAR),
        ({FACTOR: 4.0}, LINEAR),
        ({FACTOR: 4}, LINEAR),
        ({FACTOR: 4.0, TYPE: "linear"}, LINEAR),
        ({FACTOR: 4.0, "llama__rope__scale_linear": 2.0}, LINEAR),
        ({FACTOR: 4.0, TYPE: "none"}, None),
        ({FACTOR: 1.0}, None),
        ({FACTOR: 0.0}, None),
        ({TYPE: "linear"}, None),
        ({"llama__rope__scaling__finetuned": True}, None),
    ],
)
def test_factor_is_used(tmp_path: Path, metadata: dict[str, Any], scaling: dict[str, Any] | None) -> None:
    assert config_of(tmp_path, **metadata)["rope_scaling"] == scaling


def test_yarn_is_used_with_its_fields(tmp_path: Path) -> None:
    given = {
        FACTOR: 4.0, TYPE: "yarn", "llama__rope__scaling__original_context_length": 24,
        "llama__rope__scaling__yarn_beta_fast": 20.0, "llama__rope__scaling__yarn_beta_slow": 2.0,
        "llama__rope__scaling__yarn_attn_factor": 0.5,
    }  # fmt: skip
    scaling = config_of(tmp_path, **given)["rope_scaling"]
    assert scaling.pop("attention_factor") == pytest.approx(0.5 * (0.1 * math.log(4) + 1))
    assert scaling == {
        "rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 24, "beta_fast": 20.0, "beta_slow": 2.0
    }  # fmt: skip


@pytest.mark.parametrize("kind", ["linear", "yarn"])
def test_both_sides_compute_it(tmp_path: Path, kind: str) -> None:
    assert_same(converted(tmp_path, **{FACTOR: 4.0, TYPE: kind, "llama__context_length": 24}))


@pytest.mark.parametrize(
    ("metadata", "words"),
    [
        ({TYPE: "longrope", FACTOR: 4.0}, "'longrope'"),
        ({TYPE: "yarn"}, "'yarn' and says no factor"),
        ({"llama__rope__scaling__yarn_beta_fast": 16.0}, "yarn_beta_fast.* not yarn but 'linear'"),
        ({"llama__rope__scaling__attn_factor": 2.0}, r"llama\.rope\.scaling\.attn_factor = 2"),
        ({"llama__rope__scaling__yarn_log_multiplier": 0.1}, "yarn_log_multiplier"),
        ({TYPE: "yarn", FACTOR: 2.0, "llama__rope__scaling__yarn_ext_factor": 0.5}, "yarn_ext_factor"),
    ],
)
def test_what_is_not_supported_is_named(tmp_path: Path, metadata: dict[str, Any], words: str) -> None:
    with pytest.raises(UnsupportedError, match=words):
        config_of(tmp_path, **metadata)


@pytest.mark.parametrize("factor", [-1.0, float("nan"), float("inf"), "4", True])
def test_a_factor_that_is_none_is_named(tmp_path: Path, factor: Any) -> None:
    with pytest.raises(CheckpointError, match=r"llama\.rope\.scaling\.factor is"):
        config_of(tmp_path, **{FACTOR: factor})
