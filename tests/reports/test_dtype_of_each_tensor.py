"""One checkpoint in several dtypes (norms in float32, matrices in bfloat16): loaded as if all had the first one's."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.reports.both import TINY, assert_same, saved, store, tensors

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


@pytest.mark.parametrize("model_type", TINY)
def test_each_tensor_has_its_own(tmp_path: Path, model_type: str) -> None:
    stored = tensors(saved(tmp_path, model_type))
    store(tmp_path, {name: value.to(DTYPES[i % 4]) for i, (name, value) in enumerate(stored.items())})
    assert_same(tmp_path)
