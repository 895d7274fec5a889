"""add_norm.cu against the reference: the sum to float32 accuracy, its norm as close as torch's, every mode."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from eet_demo.engine.executors.cuda.arrays import DType
from eet_demo.engine.executors.cuda.launchers.add_norm import add_norm
from eet_demo.engine.executors.cuda.launchers.norms import NormKind
from eet_demo.engine.executors.reference import kernels as reference
from eet_demo.engine.executors.reference import many_rows as reference_many_rows
from eet_demo.errors import UnsupportedError
from tests.kernels.harness import (
    ALL_MODES,
    DTYPES,
    ORDERS,
    assert_as_close_as_torch,
    assert_equal,
    assert_float32_close,
    launcher,
    rng,
    rounded,
)

EPS = 1e-5


def run(
    mode: str, rows: int, n: int, dtype: DType, norm: NormKind, add: bool = True, bias: bool = True, scale: float = 0.7
) -> None:
    """One launch, compared. The residual has a large mean, which a one-pass variance would not survive."""
    device, random = launcher(mode), rng(rows, n)
    residual = (random.standard_normal((rows, n)) + 30).astype(np.float32)
    x = rounded(random.standard_normal((rows, n)), dtype) if add else None
    linear_bias = rounded(random.standard_normal(n), dtype) if add and bias else None
    weight, shift = random.standard_normal((2, n)).astype(np.float32)
    options: dict[str, Any] = {} if norm == "none" and add else {"out": device.empty((rows, n), dtype)}
    if norm != "none":
        options |= {"norm": norm, "norm_weight": device.upload(weight, "float32")}
    norm_bias = shift if norm != "none" and bias else None
    if norm_bias is not None:
        options["norm_bias"] = device.upload(norm_bias, "float32")
    on_device = device.upload(residual, "float32")
    add_norm(
        device,
        on_device,
        None if x is None else device.upload(x, dtype),
        dtype=dtype,
        bias=None if linear_bias is None else device.upload(linear_bias, dtype),
        scale=scale,
        eps=EPS,
        **options,
    )
    context = f"{mode} {dtype} {norm} rows={rows} n={n} add={add} bias={bias}"

    def normalise(summed: np.ndarray) -> np.ndarray:
        return summed if norm == "none" else reference.normalise(summed, norm, EPS, weight, norm_bias)

    wide = residual.astype(np.float64)
    summed, normed = reference_many_rows.add_norm(wide, x, linear_bias, float(np.float32(scale)), normalise)
    if add:
        assert_float32_close(device.download(on_device), summed, context, tolerance=1e-6)
    else:
        assert_equal(device.download(on_device), residual, context)
    if norm == "none" and not add:
        assert_equal(device.download(options["out"]), rounded(residual, dtype), context)
    elif norm != "none":
        by_torch = torch_norm(summed, norm, weight, norm_bias, dtype)
        assert_as_close_as_torch(device.download(options["out"]), normed, by_torch, context)


def torch_norm(
    summed: np.ndarray, norm: NormKind, weight: np.ndarray, bias: np.ndarray | None, dtype: DType
) -> np.ndarray:
    """torch's norm of the float32 sum, its result in `dtype`."""
    x, scale = torch.from_numpy(summed.astype(np.float32)), torch.from_numpy(weight)
    shift = None if bias is None else torch.from_numpy(bias)
    if norm == "layer":
        y = torch.nn.functional.layer_norm(x, x.shape[-1:], scale, shift, EPS)
    else:
        y = torch.nn.functional.rms_norm(x, x.shape[-1:], scale, EPS)
        y = y if shift is None else y + shift
    return y.to(getattr(torch, dtype)).float().numpy()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n", [8, 576, 768, 1600, 2560, 4096, 12288, 16384])
def test_add_norm_of_every_length(n: int, dtype: DType) -> None:
    run("plain", 3, n, dtype, "rms" if n in (576, 4096) else "layer")


@pytest.mark.parametrize("rows", [1, 17, 33, 129])
def test_add_norm_of_any_number_of_rows(rows: int) -> None:
    run("plain", rows, 576, "float16", "rms")


@pytest.mark.parametrize("mode", ORDERS)
@pytest.mark.parametrize(
    ("norm", "add", "bias"),
    [
        ("layer", True, False),
        ("rms", False, False),
        ("none", True, True),
        ("layer", False, True),
        ("none", False, False),
    ],
)
def test_add_norm_adds_and_normalises_apart(mode: str, norm: NormKind, add: bool, bias: bool) -> None:
    run(mode, 2, 1600, "bfloat16", norm, add, bias)


@pytest.mark.parametrize("mode", ALL_MODES)
def test_add_norm_is_clean_in_every_mode(mode: str) -> None:
    run(mode, 3, 1600, "float16", "layer")


def test_add_norm_refuses_what_it_would_misread() -> None:
    with pytest.raises(UnsupportedError, match="multiple of 8"):
        run("plain", 1, 111, "float32", "rms")
    device = launcher("plain")
    residual = device.empty((1, 8), "float32")
    with pytest.raises(ValueError, match="no x needs out"):
        add_norm(device, residual, dtype="float32")
    with pytest.raises(ValueError, match="needs a weight"):
        add_norm(device, residual, dtype="float32", norm="rms", out=residual)
