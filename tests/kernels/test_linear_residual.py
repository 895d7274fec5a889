"""linear_residual.cu against the reference: the projection core at every size, batch, format and in every mode."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from eet_demo.engine.executors.cuda.arrays import DType
from eet_demo.engine.executors.cuda.launchers.gemv import plan_gemv
from eet_demo.engine.executors.cuda.launchers.linear_residual import linear_residual
from eet_demo.engine.executors.cuda.launchers.matrices import WeightFormat
from eet_demo.engine.executors.reference import kernels as reference
from eet_demo.errors import UnsupportedError
from tests.kernels.harness import (
    ALL_MODES,
    DTYPES,
    FORMATS,
    GPU,
    NARROW_MODES,
    assert_as_close_as_torch,
    assert_equal,
    assert_float32_close,
    launcher,
    make_matrix,
    rng,
    rounded,
)
from tests.kernels.projections import to_numpy, torch_linear

Results = tuple[np.ndarray, np.ndarray, np.ndarray]

ANY_ORDER = [(mode, k) for mode in ("plain", "reversed") for k in (576, 12288)]
EVERY_WIDTH = [(mode, k) for mode in ("shuffled", "gpu") for k in (8, 576, 768, 1600, 2560, 4096, 12288)]
WIDTHS = [pytest.param(mode, k, marks=GPU.marks if mode == "gpu" else ()) for mode, k in (*ANY_ORDER, *EVERY_WIDTH)]


def run(
    mode: str, rows: int, n: int, k: int, dtype: DType, weights: WeightFormat = "dense", *,
    bias: bool = True, product: bool = False, scale: float = 0.5,
) -> Results:  # fmt: skip
    """The kernel's result, the reference's in float64, and torch's in `dtype`."""
    device, random = launcher(mode), rng(rows, n, k)
    matrix, weight = make_matrix(device, random, n, k, dtype, weights)
    x = rounded(random.standard_normal((rows, k)), dtype)
    b = rounded(random.standard_normal(n), dtype) if bias else None
    residual = random.standard_normal((rows, n)).astype(np.float32)
    out = device.empty((rows, n), dtype) if product else device.upload(residual, "float32")
    linear_residual(
        device, device.upload(x, dtype), matrix, dtype=dtype, bias=None if b is None else device.upload(b, dtype),
        residual=None if product else out, product=out if product else None, scale=scale,
    )  # fmt: skip
    start = np.zeros((rows, n)) if product else residual.astype(np.float64)
    wide_b = None if b is None else b.astype(np.float64)
    expected = reference.linear_residual(start, x.astype(np.float64), weight.astype(np.float64), wide_b, scale)
    by_torch = to_numpy(torch_linear(torch.from_numpy(x), weight, b, dtype)) * np.float32(scale) + start
    return device.download(out), expected, by_torch


@pytest.mark.parametrize(("mode", "k"), WIDTHS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_linear_residual_takes_every_width(mode: str, k: int, dtype: DType) -> None:
    actual, expected, _ = run(mode, 1, 18, k, dtype)
    assert_float32_close(actual, expected, f"{mode} {dtype} k={k}")


@pytest.mark.parametrize("rows", [1, 2, 3, 16])
@pytest.mark.parametrize("weights", FORMATS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_linear_residual_reads_every_format(dtype: DType, weights: WeightFormat, rows: int) -> None:
    actual, expected, by_torch = run("shuffled", rows, 21, 1600, dtype, weights)
    context = f"{dtype} {weights} rows={rows}"
    if dtype != "float32" and weights != "dense" and rows > 2:  # tensor cores take the weights rounded to dtype
        assert_as_close_as_torch(actual, expected, by_torch, context)
    else:
        assert_float32_close(actual, expected, context)


@pytest.mark.parametrize("rows", range(1, 17))
def test_linear_residual_takes_any_number_of_rows_to_16(rows: int) -> None:
    actual, expected, _ = run("plain", rows, 20, 1600, "float16")
    assert_float32_close(actual, expected, f"rows={rows}")


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("k", [768, 4096])
def test_linear_residual_takes_16_rows_in_stages(dtype: DType, k: int) -> None:
    """16 rows do not fit into shared memory at once: 512 or 1,024 columns of them do."""
    actual, expected, _ = run("shuffled", 16, 18, k, dtype)
    assert_float32_close(actual, expected, f"{dtype} k={k}")


@pytest.mark.parametrize(("rows", "n", "groups"), [(1, 2050, 2), (2, 8197, 8), (16, 8200, 2)])
def test_linear_residual_gives_a_block_more_rows_where_there_are_many(rows: int, n: int, groups: int) -> None:
    assert plan_gemv(n, 64, rows, "float16", "dense").groups == groups
    actual, expected, _ = run("plain", rows, n, 64, "float16")
    assert_float32_close(actual, expected, f"rows={rows} n={n}")
    for mode in ("plain", "reversed"):  # a block that wrote past its share would undo, or be undone
        actual, expected, by_torch = run(mode, rows, n, 64, "float16", bias=False, product=True, scale=1.0)
        assert_as_close_as_torch(actual, expected, by_torch, f"{mode} rows={rows} n={n}")


@pytest.mark.parametrize("rows", [3, 16])
@pytest.mark.parametrize("dtype", DTYPES)
def test_linear_residual_stores_a_product_that_a_norm_follows(dtype: DType, rows: int) -> None:
    actual, expected, by_torch = run("shuffled", rows, 21, 1600, dtype, bias=False, product=True, scale=1.0)
    assert_as_close_as_torch(actual, expected, by_torch, f"{dtype} rows={rows}")


@pytest.mark.parametrize("mode", ALL_MODES)
@pytest.mark.parametrize(
    ("rows", "dtype", "weights"),
    [
        (3, "float16", "q4_1"),
        (2, "float16", "q4_1"),
        (1, "bfloat16", "q8_0"),
        (2, "float32", "dense"),
        (16, "bfloat16", "q8_0"),
    ],
)
def test_linear_residual_is_clean_in_every_mode(mode: str, rows: int, dtype: DType, weights: WeightFormat) -> None:
    actual, expected, by_torch = run(mode, rows, 18, 1600, dtype, weights)
    assert_as_close_as_torch(actual, expected, by_torch, f"{mode} {dtype} {weights}")


@pytest.mark.parametrize("mode", NARROW_MODES)
@pytest.mark.parametrize("rows", [1, 3, 16])
def test_linear_residual_walks_through_tiles(mode: str, rows: int) -> None:
    """A block's share is several tiles, the last of them narrower; what it computes does not depend on the shares."""
    actual, expected, _ = run(mode, rows, 100, 576, "float16")
    assert_float32_close(actual, expected, f"{mode} rows={rows}")
    assert_equal(actual, run("plain@40", rows, 100, 576, "float16")[0], f"{mode} rows={rows}: one tile a block")


@pytest.mark.parametrize("rows", [3, 16])
def test_linear_residual_is_the_same_bits_in_every_order(rows: int) -> None:
    first, *others = (run(mode, rows, 18, 1600, "float16")[0] for mode in ("plain", "reversed", "shuffled"))
    for other in others:
        assert_equal(other, first, f"rows={rows}")


def test_linear_residual_refuses_what_it_lacks() -> None:
    with pytest.raises(UnsupportedError, match="multiple of 8"):
        run("plain", 1, 16, 111, "float32")
    with pytest.raises(UnsupportedError, match="multiple of 32"):
        plan_gemv(16, 104, 1, "float32", "q4_0")
    with pytest.raises(UnsupportedError, match="1 to 16"):
        run("plain", 17, 16, 576, "float32")
    with pytest.raises(UnsupportedError, match="float64"):
        plan_gemv(16, 64, 1, "float64", "dense")
    device = launcher("plain")
    matrix, _ = make_matrix(device, rng(1), 8, 64, "float32", "dense")
    with pytest.raises(ValueError, match="one of them"):
        linear_residual(device, device.empty((1, 64), "float32"), matrix, dtype="float32")
