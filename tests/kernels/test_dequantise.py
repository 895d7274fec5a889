"""dequantise.cu against the gguf package: every value of every tile, rounded once, every mode."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from eet_demo.engine.executors.cuda.arrays import DType
from eet_demo.engine.executors.cuda.launchers.dequantise import dequantise
from eet_demo.engine.executors.cuda.launchers.matrices import WeightFormat, dequantise_planes, split_blocks
from eet_demo.engine.executors.reference import many_rows as reference_many_rows
from eet_demo.errors import UnsupportedError
from tests.kernels.harness import (
    ALL_MODES,
    DTYPES,
    FORMATS,
    assert_equal,
    launcher,
    make_matrix,
    random_blocks,
    rng,
    rounded,
)

QUANTISED = [weights for weights in FORMATS if weights != "dense"]


def run(mode: str, rows: int, columns: int, tile: tuple[int, int], dtype: DType, weights: WeightFormat) -> None:
    """Rows tile[0] .. tile[1] of a weight, compared with the float32 product and sum rounded to `dtype`.

    Minima are added by a fused multiply-add, so float32 may differ from the gguf package by one rounding.
    """
    device = launcher(mode)
    matrix, values = make_matrix(device, rng(rows, columns), rows, columns, dtype, weights)
    out = device.empty((tile[1] - tile[0], columns), dtype)
    actual = device.download(dequantise(device, matrix, tile[0], dtype=dtype, out=out))
    context = f"{mode} {dtype} {weights} {rows}x{columns} rows {tile}"
    expected = values[tile[0] : tile[1]]
    if weights == "q4_1":
        ulp = {"float32": 2.0**-23, "float16": 2.0**-10, "bfloat16": 2.0**-7}[dtype]
        largest = np.abs(expected).max()
        assert np.abs(actual - rounded(expected, dtype)).max() <= ulp * largest, context
        assert (actual == rounded(expected, dtype)).mean() > (0.5 if dtype == "float32" else 0.99), context
    else:
        assert_equal(actual, rounded(expected, dtype), context)


@pytest.mark.parametrize("weights", QUANTISED)
@pytest.mark.parametrize("dtype", DTYPES)
def test_dequantise_every_format(dtype: DType, weights: WeightFormat) -> None:
    run("plain", 33, 576, (0, 33), dtype, weights)


@pytest.mark.parametrize("weights", QUANTISED)
@pytest.mark.parametrize(("columns", "tile"), [(32, (2, 3)), (1600, (1, 4)), (4096, (3, 5)), (12288, (4, 5))])
def test_dequantise_a_tile_in_the_middle(columns: int, tile: tuple[int, int], weights: WeightFormat) -> None:
    run("shuffled", 5, columns, tile, "float16", weights)


@pytest.mark.parametrize("mode", ALL_MODES)
@pytest.mark.parametrize("weights", QUANTISED)
def test_dequantise_is_clean_in_every_mode(mode: str, weights: WeightFormat) -> None:
    run(mode, 4, 1600, (1, 4), "float16", weights)


@pytest.mark.parametrize("weights", QUANTISED)
def test_dequantise_reference_is_the_gguf_package(weights: WeightFormat) -> None:
    raw = random_blocks(rng(1), 5, 96, weights)
    values, scales = split_blocks(raw, weights)
    import gguf  # a GPU host runs the other tests without it

    expected = gguf.quants.dequantize(raw, getattr(gguf.GGMLQuantizationType, weights.upper()))
    assert_equal(dequantise_planes(values, scales, weights), expected, weights)
    quants: Any = values
    if weights != "q8_0":
        nibbles = values.reshape(5, -1, 16)
        quants = np.concatenate([nibbles & 15, nibbles >> 4], axis=-1).reshape(5, 96).astype(np.int32)
    scale, minimum = (scales[..., 0], scales[..., 1]) if weights == "q4_1" else (scales, None)
    quants = quants - 8 if weights == "q4_0" else quants
    assert_equal(reference_many_rows.dequantise(quants, scale, minimum), expected, weights)


def test_dequantise_refuses_dense_weights_and_rows_outside() -> None:
    with pytest.raises(UnsupportedError, match="dense"):
        run("plain", 2, 64, (0, 1), "float32", "dense")
    with pytest.raises(UnsupportedError, match="must lie inside"):
        run("plain", 4, 64, (3, 5), "float16", "q8_0")
