"""Stock and engine as lanes, on families whose classes differ most: the same tokens for a ragged, padded batch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from eet_demo.race.fits import side_bytes
from eet_demo.records import Sampling
from eet_demo.sides.engine import EngineSide
from eet_demo.sides.side import RunRequest, SideOptions
from eet_demo.sides.stock import BaselineSide
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
