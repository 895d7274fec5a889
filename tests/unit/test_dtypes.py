"""bfloat16 as torch rounds it, names of dtypes that are known, and sizes in words."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from eet_demo.engine.dtypes import DTYPE_BYTES, REALS, from_bfloat16, real, to_bfloat16
from eet_demo.errors import UnsupportedError
from eet_demo.sizes import ceil_div, round_up, size_text


def test_bfloat16_is_torchs() -> None:
    bits = np.random.default_rng(5).integers(0, 2**32, 200_000, np.uint32)
    edges = np.array([0, 1 << 31, 0x7F800000, 0xFF800000, 0x7F7FFFFF, 0x3F808000, 0x3F818000, 0x3F808001], np.uint32)
    values = np.concatenate([bits, edges]).view(np.float32)
    ours, theirs = from_bfloat16(to_bfloat16(values)), torch.from_numpy(values).bfloat16().float().numpy()
    assert np.array_equal(ours, theirs, equal_nan=True)
    assert np.array_equal(to_bfloat16(ours[~np.isnan(ours)]), to_bfloat16(values[~np.isnan(values)]))


def test_dtypes_by_name() -> None:
    assert [real(name) for name in REALS] == list(REALS)
    assert all(DTYPE_BYTES[name] == torch.empty(0, dtype=getattr(torch, name)).element_size() for name in DTYPE_BYTES)
    with pytest.raises(UnsupportedError, match="'float64' is not supported; supported: float32, float16, bfloat16"):
        real("float64")


def test_sizes() -> None:
    assert [ceil_div(count, 4) for count in (0, 1, 4, 5)] == [0, 1, 1, 2]
    assert [round_up(size, 64) for size in (0, 1, 64, 65)] == [0, 64, 64, 128]
    assert [size_text(size) for size in (15 << 20, 512 << 20, 3 << 30)] == ["15.0 MiB", "0.50 GiB", "3.00 GiB"]
