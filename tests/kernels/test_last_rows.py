"""last_rows.cu against the reference: the right rows, their norm as close as torch's, every mode."""

from __future__ import annotations

import numpy as np
import pytest

from eet_demo.engine.executors.cuda.arrays import DType
from eet_demo.engine.executors.cuda.launchers.last_rows import last_rows
from eet_demo.engine.executors.cuda.launchers.norms import NormKind
from eet_demo.engine.executors.reference import many_rows as reference_many_rows
from eet_demo.errors import UnsupportedError
from tests.kernels.harness import ALL_MODES, DTYPES, assert_as_close_as_torch, assert_equal, launcher, rng, rounded
from tests.kernels.test_add_norm import EPS, torch_norm


def run(mode: str, wanted: list[int], n: int, dtype: DType, norm: NormKind, bias: bool = True) -> None:
    """One launch, compared; rows nobody wants are NaN."""
    device, random = launcher(mode), rng(len(wanted), n)
    residual = np.full((max(wanted) + 2, n), np.nan, np.float32)
    residual[wanted] = random.standard_normal((len(wanted), n)) + 3
    weight, shift = random.standard_normal((2, n)).astype(np.float32)
    norm_bias = shift if bias and norm != "none" else None
    out = last_rows(
        device,
        device.upload(residual, "float32"),
        device.upload(np.array(wanted), "int32"),
        dtype=dtype,
        out=device.empty((len(wanted), n), dtype),
        norm=norm,
        norm_weight=None if norm == "none" else device.upload(weight, "float32"),
        norm_bias=None if norm_bias is None else device.upload(norm_bias, "float32"),
        eps=EPS,
    )
    context = f"{mode} {dtype} {norm} n={n} wanted={wanted}"
    if norm == "none":
        assert_equal(device.download(out), rounded(residual[wanted], dtype), context)
        return
    expected = reference_many_rows.last_rows(
        residual.astype(np.float64), np.array(wanted), norm, EPS, weight, norm_bias
    )
    by_torch = torch_norm(residual[wanted], norm, weight, norm_bias, dtype)
    assert_as_close_as_torch(device.download(out), expected, by_torch, context)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n", [8, 576, 1600, 12288, 16384])
def test_last_rows_gathers_and_normalises(n: int, dtype: DType) -> None:
    run("shuffled", [5, 0, 32], n, dtype, "layer" if n in (8, 1600) else "rms")


@pytest.mark.parametrize("mode", ALL_MODES)
def test_last_rows_is_clean_in_every_mode(mode: str) -> None:
    run(mode, [16, 3], 1600, "float16", "layer")


@pytest.mark.parametrize("dtype", DTYPES)
def test_last_rows_without_a_norm_copies(dtype: DType) -> None:
    run("plain", [128], 576, dtype, "none")


def test_last_rows_of_a_layer_norm_without_bias() -> None:
    run("plain", list(range(16)), 576, "float32", "layer", bias=False)


def test_last_rows_refuses_a_row_of_111_values() -> None:
    with pytest.raises(UnsupportedError, match="multiple of 8"):
        run("plain", [0], 111, "float32", "rms")
