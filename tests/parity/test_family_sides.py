"""Stock and engine as lanes, on families whose classes differ most: the same tokens for a ragged, padded batch."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from eet_demo.records import Sampling
from eet_demo.sides.build import side_bytes
from eet_demo.sides.engine import EngineSide
from eet_demo.sides.side import RunRequest, SideOptions
from eet_demo.sides.stock import BaselineSide
from tests.parity.caches import cache_bytes
from tests.parity.family_checkpoints import FAMILIES, make_family

LENGTHS = (40, 20, 26)
NEW_TOKENS = 8


class Rows:
    """Keeps the tokens of a run."""

    stopped = False

    def __init__(self) -> None:
        self.steps: list[list[int | None]] = []

    def started(self, time_ns: int) -> None:
        pass

    def tokens(self, time_ns: int, token_ids: Sequence[int | None]) -> None:
        self.steps.append(list(token_ids))

    def progress(self, done_tokens: int, total_tokens: int) -> None:
        pass


@pytest.mark.parametrize("name", ["opt", "gpt_neox", "gptj", "bloom", "mistral", "smollm3", "gemma2", "gemma3", "phi3"])
def test_stock_and_engine_write_the_same(name: str, tmp_path: Path) -> None:
    make_family(tmp_path, name)
    rng = np.random.default_rng(1)
    vocabulary = FAMILIES[name].fields["vocab_size"]
    prompts = tuple(tuple(rng.integers(3, vocabulary, length).tolist()) for length in LENGTHS)
    written = []
    for kind, side_class in (("stock", BaselineSide), ("engine", EngineSide)):
        options = SideOptions(
            side=kind, model_path=str(tmp_path), device="cpu", dtype="float32", weights="dense", threads=1,
            max_batch=3, max_context=64,
        )  # fmt: skip
        assert side_bytes(options) > 0
        side, sink = side_class(options), Rows()
        if isinstance(side, EngineSide):
            side.compile()
        side.load()
        side.run(RunRequest(prompts, NEW_TOKENS, Sampling()), sink)
        assert side.memory_bytes()["kv_cache_used"] > 0
        written.append(sink.steps)
        side.close()
    assert len(written[0]) == NEW_TOKENS
    assert written[0] == written[1]


@pytest.mark.parametrize("name", ["mistral", "qwen2-windows", "gemma2", "gemma3", "phi3", "gpt_neox"])
@pytest.mark.parametrize("side", ["stock", "stock-static"])
@pytest.mark.parametrize("prompt_tokens", [5, 10, 30])
def test_stock_counts_the_cache_that_it_has(
    name: str, side: str, prompt_tokens: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After every step: windows keep less than other layers, and until the next step hold more than they keep."""
    make_family(tmp_path, name)
    options = SideOptions(side, str(tmp_path), "cpu", "float32", "dense", 1, 2, 48)
    stock = BaselineSide(options)
    stock.load()
    caches: list[Any] = []
    forward = stock._model.forward

    def spy(*args: Any, **kwargs: Any) -> Any:
        caches.append(kwargs["past_key_values"])
        return forward(*args, **kwargs)

    class Watching(Rows):
        def tokens(self, time_ns: int, token_ids: Sequence[int | None]) -> None:
            super().tokens(time_ns, token_ids)
            kinds = stock.memory_bytes()
            seen = prompt_tokens + len(self.steps) - 1
            expected = cache_bytes(caches[-1], seen)
            assert (kinds["kv_cache_used"], kinds["kv_cache_reserved"]) == expected, (len(self.steps), seen)

    monkeypatch.setattr(stock._model, "forward", spy)
    sink = Watching()
    stock.run(RunRequest((tuple(range(3, 3 + prompt_tokens)),) * 2, NEW_TOKENS, Sampling()), sink)
    assert len(sink.steps) == NEW_TOKENS


@pytest.mark.parametrize(
    ("name", "slots"), [("mistral", 3 * 11), ("gemma2", 2 * 9 + 2 * 40), ("qwen2-windows", 40 + 2 * 10)]
)
def test_both_sides_move_the_same_bytes_of_the_cache(name: str, slots: int, tmp_path: Path) -> None:
    """What 40 cached tokens add to a step of one, by hand: a layer with a window reads no more than its window."""
    fields = make_family(tmp_path, name).config
    head_dim = getattr(fields, "head_dim", None) or fields.hidden_size // fields.num_attention_heads
    expected = 2 * slots * fields.num_key_value_heads * head_dim * 4
    options = SideOptions("stock", str(tmp_path), "cpu", "float32", "dense", 1, 1, 64)
    one_slot = expected // slots * fields.num_hidden_layers
    for side in (BaselineSide(options), EngineSide(dataclasses.replace(options, side="engine"))):
        side.compile()
        side.load()
        added = side.roofline(40, 1).bytes_per_step - side.roofline(1, 1).bytes_per_step
        assert added == expected - one_slot, type(side).__name__
        side.close()
