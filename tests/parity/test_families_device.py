"""Every family on the executor of `cuda` and `sim` against transformers: short prompts, for the simulator's sake."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from family_checkpoints import FAMILIES, greedy
from test_families import logits_in_passes, stock_of

from eet_demo.errors import UnsupportedError

DEVICES = ("sim", pytest.param("cuda", marks=pytest.mark.gpu))
LENGTHS = (14, 1, 5)
"""20 rows: the first pass is one of GEMMs, the rest of the fused kernels; 14 is beyond every window."""

BY_LENGTH = {name for name, family in FAMILIES.items() if family.lengths[-1] > 40 and len(family.lengths) != 4}
"""Tried with long prompts alone, where transformers' scaling of rotary means the same."""

LACKING = {"stablelm-parallel": "weights of its own for each head"}


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", [name for name in FAMILIES if name not in BY_LENGTH])
def test_logits_and_greedy_tokens(name: str, device: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(FAMILIES, name, replace(FAMILIES[name], lengths=LENGTHS, max_context=32))
    stock = stock_of(name, tmp_path)
    if name in LACKING:
        with pytest.raises(UnsupportedError, match=LACKING[name]):
            stock.engine(device)
        return
    with stock.engine(device, chunk=18) as engine:
        found = logits_in_passes(engine, stock.prompts)
        written = engine.generate(stock.prompts, max_new_tokens=3).token_ids
    for row, (logits, exact, torch_error) in enumerate(zip(found, stock.exact, stock.errors, strict=True)):
        assert np.abs(logits - exact).max() <= 2 * torch_error + 1e-5, f"row {row}"
    assert written == [greedy(stock.model, prompt, 3) for prompt in stock.prompts]
