"""norm_add.cu against the reference: both norms, every width, every mode."""

from __future__ import annotations

import numpy as np
import pytest

from eet_demo.engine.executors.cuda.arrays import DType
from eet_demo.engine.executors.cuda.launchers.norm_add import norm_add
from eet_demo.engine.executors.cuda.launchers.norms import NormKind, NormWeights
from eet_demo.engine.executors.reference import kernels as reference
from eet_demo.errors import UnsupportedError
from tests.kernels.harness import ALL_MODES, DTYPES, assert_float32_close, launcher, rng, rounded
from tests.kernels.projections import make_norm


def run(
    mode: str, rows: int, n: int, dtype: DType, kind: NormKind, offset: float = 0.0
) -> tuple[np.ndarray, np.ndarray]:
    """The kernel's residual and the reference's, float64; `offset` is the mean of x."""
    device, random = launcher(mode), rng(rows, n)
    x = rounded(random.standard_normal((rows, n)) + offset, dtype)
    residual = random.standard_normal((rows, n)).astype(np.float32)
    norm = make_norm(random, kind, n)
    out = device.upload(residual, "float32")
    norm_add(device, device.upload(x, dtype), norm.upload(device), dtype=dtype, residual=out, scale=0.75)
    return device.download(out), reference.norm_add(residual.astype(np.float64), norm.apply(x), 0.75)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n", [8, 576, 1600, 12288])
@pytest.mark.parametrize("kind", ["layer", "rms"])
def test_norm_add_takes_every_width(kind: NormKind, n: int, dtype: DType) -> None:
    actual, expected = run("shuffled", 3, n, dtype, kind)
    assert_float32_close(actual, expected, f"{dtype} {kind} n={n}")


@pytest.mark.parametrize("rows", [1, 16, 40])
def test_norm_add_takes_any_number_of_rows(rows: int) -> None:
    actual, expected = run("plain", rows, 768, "float16", "rms")
    assert_float32_close(actual, expected, f"rows={rows}")


def test_norm_add_keeps_its_digits_under_a_large_mean() -> None:
    actual, expected = run("plain", 2, 768, "float32", "layer", offset=1000.0)
    assert_float32_close(actual, expected, "mean 1000", tolerance=1e-4)


@pytest.mark.parametrize("mode", ALL_MODES)
def test_norm_add_is_clean_in_every_mode(mode: str) -> None:
    actual, expected = run(mode, 3, 1600, "bfloat16", "layer")
    assert_float32_close(actual, expected, mode)


def test_norm_add_refuses_what_it_lacks() -> None:
    with pytest.raises(UnsupportedError, match="multiple of 8"):
        run("plain", 1, 111, "float32", "rms")
    device = launcher("plain")
    row = device.empty((1, 8), "float32")
    with pytest.raises(ValueError, match="needs a weight"):
        norm_add(device, row, NormWeights("rms"), dtype="float32", residual=row)
