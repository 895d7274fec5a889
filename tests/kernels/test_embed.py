"""embed.cu against the reference: exact gathers, norms to float32 accuracy, every weight format, every mode."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from eet_demo.engine.executors.cuda.arrays import DType
from eet_demo.engine.executors.cuda.launchers.embed import embed
from eet_demo.engine.executors.cuda.launchers.matrices import WeightFormat
from eet_demo.engine.executors.cuda.launchers.norms import NormKind
from eet_demo.engine.executors.reference import kernels as reference
from eet_demo.errors import UnsupportedError
from tests.kernels.harness import (
    ALL_MODES,
    DTYPES,
    FORMATS,
    ORDERS,
    assert_float32_close,
    launcher,
    make_matrix,
    rng,
    rounded,
)

VOCAB = 7
EPS = 0.1
"""Large, so that a kernel that leaves it out is seen."""


def run(
    mode: str, rows: int, n: int, dtype: DType, weights: WeightFormat, norm: NormKind, learned: bool, scale: float
) -> tuple[np.ndarray, np.ndarray]:
    """The kernel's residual and the reference's, float64."""
    device, random = launcher(mode), rng(rows, n)
    tokens, table = make_matrix(device, random, VOCAB, n, dtype, weights)
    ids = random.integers(0, VOCAB, rows).astype(np.int32)
    ids[:2] = (VOCAB - 1, 0)[: len(ids[:2])]
    position_ids = random.integers(0, 5, rows).astype(np.int32)
    position_table = random.standard_normal((5, n)).astype(np.float32) if learned else None
    weight, bias = random.standard_normal((2, n)).astype(np.float32)
    options: dict[str, Any] = {}
    if norm != "none":
        options = {"norm": norm, "norm_weight": device.upload(weight, "float32"), "eps": EPS}
    if norm == "layer":
        options["norm_bias"] = device.upload(bias, "float32")
    if position_table is not None:
        options["positions"] = device.upload(position_table, dtype)
        position_table = rounded(position_table, dtype).astype(np.float64)
    out = device.empty((rows, n), "float32")
    embed(device, device.upload(ids, "int32"), device.upload(position_ids, "int32"), tokens, dtype=dtype, out=out,
          scale=scale, **options)  # fmt: skip
    expected = reference.embed(ids, position_ids, table.astype(np.float64), position_table, float(np.float32(scale)))
    if norm != "none":
        expected = reference.normalise(expected, norm, EPS, weight, bias if norm == "layer" else None)
    return device.download(out), expected


@pytest.mark.parametrize("mode", ORDERS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n", [8, 576, 768, 1600, 4096, 12288])
def test_embed_gathers_scales_and_adds_positions(mode: str, dtype: DType, n: int) -> None:
    actual, expected = run(mode, 3, n, dtype, "dense", "none", learned=True, scale=0.75)
    assert_float32_close(actual, expected, f"{mode} {dtype} n={n}", tolerance=1e-6)


@pytest.mark.parametrize("weights", FORMATS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_embed_reads_every_weight_format(dtype: DType, weights: WeightFormat) -> None:
    actual, expected = run("plain", 16, 576, dtype, weights, "none", learned=False, scale=1.0)
    assert_float32_close(actual, expected, f"{dtype} {weights}", tolerance=1e-6)


@pytest.mark.parametrize("norm", ["layer", "rms"])
@pytest.mark.parametrize("n", [8, 576, 2560, 12288])
def test_embed_normalises(norm: NormKind, n: int) -> None:
    for dtype in DTYPES:
        actual, expected = run("shuffled", 2, n, dtype, "dense", norm, learned=norm == "layer", scale=1.0)
        assert_float32_close(actual, expected, f"{dtype} {norm} n={n}")


@pytest.mark.parametrize("mode", ALL_MODES)
@pytest.mark.parametrize("weights", ["dense", "q4_1"])
def test_embed_is_clean_in_every_mode(mode: str, weights: WeightFormat) -> None:
    actual, expected = run(mode, 2, 1600, "float16", weights, "layer", learned=True, scale=2.0)
    assert_float32_close(actual, expected, f"{mode} {weights}")


def test_embed_single_row() -> None:
    actual, expected = run("plain", 1, 768, "float32", "dense", "none", learned=False, scale=1.0)
    assert_float32_close(actual, expected, "one row", tolerance=0)


def test_embed_refuses_a_row_of_111_values() -> None:
    with pytest.raises(UnsupportedError, match="multiple of 8"):
        run("plain", 1, 111, "float32", "dense", "none", learned=False, scale=1.0)
