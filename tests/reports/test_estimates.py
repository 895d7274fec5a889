"""Sliding windows and absent fields unknown to the estimates: 81,792 bytes of KV cache said, 11,520 there."""

from __future__ import annotations

from pathlib import Path

import pytest

from eet_demo import Engine
from eet_demo.sides.side import SideOptions
from eet_demo.sides.stock import BaselineSide
from eet_demo.sides.stock_bytes import stock_bytes
from tests.reports.both import change_config, saved


def options(folder: Path, side: str) -> SideOptions:
    return SideOptions(side, str(folder), "cpu", "float32", "dense", 1, 1, 30)


@pytest.mark.parametrize(
    ("model_type", "default"),
    [("gemma2", {"head_dim": 256}), ("mistral", {"sliding_window": 4096}), ("qwen3", {"head_dim": 128})],
)
@pytest.mark.parametrize("side", ["stock", "stock-static"])
def test_a_field_that_is_absent_is_estimated_as_its_default(
    tmp_path: Path, model_type: str, default: dict[str, int], side: str
) -> None:
    folder = saved(tmp_path, model_type)
    change_config(folder, (), **default)
    given = stock_bytes(options(folder, side))
    change_config(folder, tuple(default))
    assert stock_bytes(options(folder, side)) == given


def test_bytes_a_token_stop_growing_at_the_window(tmp_path: Path) -> None:
    """Both rooflines: 2 layers of 1 KV head of 8, keys and values in float32, 6 slots and no more."""
    folder = saved(tmp_path, "mistral", sliding_window=6)
    slot = 2 * 2 * 8 * 4
    with Engine.from_pretrained(folder, "reference", max_batch=1, max_context=30) as engine:
        assert engine.bytes_per_token(6) - engine.bytes_per_token(5) == slot
        assert engine.bytes_per_token(29) == engine.bytes_per_token(6)
    side = BaselineSide(options(folder, "stock"))
    side.load()
    weights = [side.roofline(context, 1).bytes_per_step for context in (5, 6, 29)]
    side.close()
    assert weights[1] - weights[0] == slot
    assert weights[2] == weights[1]
