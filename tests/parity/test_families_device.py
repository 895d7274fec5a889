"""Every family decoded by the executor of `cuda` and `sim`: short prompts, for the simulator's sake."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tests.devices import CUDA, SIM
from tests.parity.family_checkpoints import FAMILIES, greedy
from tests.parity.test_families import REFUSED, stock_of

DEVICES = (SIM, CUDA)
LENGTHS = (14, 1, 5)
"""20 rows: the first pass is one of GEMMs, the rest of the fused kernels; 14 is beyond every window."""

BY_LENGTH = {"llama-dynamic-long", "phi3-longrope-long"}
"""Tried with long prompts alone, where transformers' scaling of rotary means the same."""


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", [name for name in FAMILIES if name not in BY_LENGTH | set(REFUSED)])
def test_greedy_tokens_on_the_device(name: str, device: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(FAMILIES, name, replace(FAMILIES[name], lengths=LENGTHS, max_context=32))
    stock = stock_of(name, tmp_path)
    with stock.engine(device, chunk=18) as engine:
        written = engine.generate(stock.prompts, max_new_tokens=3).token_ids
    assert written == [greedy(stock.model, prompt, 3) for prompt in stock.prompts]
