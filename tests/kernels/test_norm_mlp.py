"""norm_mlp.cu against the reference: every activation, plain and gated, both norms, every size, every mode."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from eet_demo.engine.executors.cuda.arrays import DType
from eet_demo.engine.executors.cuda.launchers.gemv import plan_gemv
from eet_demo.engine.executors.cuda.launchers.matrices import WeightFormat
from eet_demo.engine.executors.cuda.launchers.norm_mlp import norm_mlp
from eet_demo.engine.executors.cuda.launchers.norms import NormKind
from eet_demo.engine.executors.reference import kernels as reference
from eet_demo.engine.spec import Activation
from eet_demo.errors import UnsupportedError
from tests.kernels.harness import (
    ALL_MODES,
    DTYPES,
    NARROW_MODES,
    PLAIN_MODES,
    assert_as_close_as_torch,
    assert_equal,
    launcher,
    make_matrix,
    rng,
    rounded,
)
from tests.kernels.projections import make_norm, to_numpy, torch_linear

TORCH_ACTIVATION = {
    "gelu_tanh": lambda x: torch.nn.functional.gelu(x, approximate="tanh"),
    "gelu_erf": torch.nn.functional.gelu,
    "silu": torch.nn.functional.silu,
    "relu": torch.nn.functional.relu,
}


def run(
    mode: str, rows: int, n: int, k: int, dtype: DType, weights: WeightFormat = "dense", *, kind: NormKind = "rms",
    activation: Activation = "silu", gated: bool = True, bias: bool = False, offset: float = 0.0,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:  # fmt: skip
    """The kernel's hidden rows, the reference's in float64, and torch's in `dtype`; `n` counts weight rows."""
    device, random = launcher(mode), rng(rows, n, k)
    matrix, weight = make_matrix(device, random, n, k, dtype, weights)
    weight_scale = 1.0 if weights != "dense" else float(np.float32(k**-0.5))
    if weights == "dense":  # hidden values of ordinary size, where the activations bend
        from eet_demo.engine.executors.cuda.launchers.matrices import upload_dense

        weight = rounded(weight * weight_scale * 2, dtype)
        matrix = upload_dense(device, weight, dtype)
    residual = (random.standard_normal((rows, k)) * 3 + offset).astype(np.float32)
    b = rounded(random.standard_normal(n), dtype) if bias else None
    norm = make_norm(random, kind, k)
    out = device.empty((rows, n // 2 if gated else n), dtype)
    norm_mlp(
        device, device.upload(residual, "float32"), norm.upload(device), matrix, dtype=dtype, activation=activation,
        gated=gated, out=out, bias=None if b is None else device.upload(b, dtype),
    )  # fmt: skip
    expected = reference.norm_mlp(norm.apply(residual), weight.astype(np.float64), b, gated, activation)
    y = torch_linear(norm.torch(torch.from_numpy(residual), dtype), weight, b, dtype)
    act = TORCH_ACTIVATION[activation]
    by_torch = act(y[:, ::2]) * y[:, 1::2] if gated else act(y)
    return device.download(out), expected, to_numpy(by_torch)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("k", [8, 576, 768, 1600, 2560, 4096, 12288])
@pytest.mark.parametrize("rows", [1, 2, 3])
def test_norm_mlp_takes_every_width(dtype: DType, k: int, rows: int) -> None:
    kind: NormKind = "rms" if rows == 1 else "layer"
    actual, expected, by_torch = run("shuffled", rows, 390 // rows // 2 * 2, k, dtype, kind=kind)
    assert_as_close_as_torch(actual, expected, by_torch, f"{dtype} k={k} rows={rows}")


@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("activation", ["gelu_tanh", "gelu_erf", "silu", "relu"])
def test_norm_mlp_has_every_activation(activation: Activation, gated: bool) -> None:
    actual, expected, by_torch = run(
        "plain", 2, 22, 576, "float32", kind="layer", activation=activation, gated=gated, bias=True
    )
    assert_as_close_as_torch(actual, expected, by_torch, f"{activation} gated={gated}")


@pytest.mark.parametrize("rows", [1, 3, 16])
@pytest.mark.parametrize("weights", ["q8_0", "q4_0", "q4_1"])
def test_norm_mlp_reads_quantised_weights(weights: WeightFormat, rows: int) -> None:
    actual, expected, by_torch = run("shuffled", rows, 70, 768, "float16", weights)
    assert_as_close_as_torch(actual, expected, by_torch, f"{weights} rows={rows}")


@pytest.mark.parametrize("kind", ["none", "layer", "rms"])
@pytest.mark.parametrize("rows", [1, 16])
def test_norm_mlp_applies_every_norm(rows: int, kind: NormKind) -> None:
    actual, expected, by_torch = run("plain", rows, 70, 1600, "float16", kind=kind)
    assert_as_close_as_torch(actual, expected, by_torch, f"{kind} rows={rows}")


@pytest.mark.parametrize("rows", [2, 3])
def test_norm_mlp_keeps_its_digits_under_a_large_mean(rows: int) -> None:
    """Held rows take one pass, others two."""
    actual, expected, _ = run("plain", rows, 20, 768, "float32", kind="layer", offset=1000.0)
    assert np.abs(actual - expected).max() <= 2e-3 * np.abs(expected).max()


@pytest.mark.parametrize("mode", ALL_MODES)
@pytest.mark.parametrize(("rows", "kind", "weights"), [(3, "layer", "q4_1"), (16, "rms", "dense")])
def test_norm_mlp_is_clean_in_every_mode(mode: str, rows: int, kind: NormKind, weights: WeightFormat) -> None:
    actual, expected, by_torch = run(mode, rows, 20, 1600, "float16", weights, kind=kind, bias=True)
    assert_as_close_as_torch(actual, expected, by_torch, f"{mode} rows={rows}")


@pytest.mark.parametrize("mode", NARROW_MODES)
@pytest.mark.parametrize("rows", [1, 16])
@pytest.mark.parametrize("gated", [False, True])
def test_norm_mlp_walks_through_tiles(mode: str, rows: int, gated: bool) -> None:
    actual, expected, by_torch = run(mode, rows, 100, 576, "float16", kind="layer", gated=gated, bias=True)
    assert_as_close_as_torch(actual, expected, by_torch, f"{mode} rows={rows} gated={gated}")


def test_norm_mlp_is_the_same_bits_in_every_order() -> None:
    first, *others = (run(mode, 3, 20, 576, "float32", kind="layer")[0] for mode in PLAIN_MODES)
    for other in others:
        assert_equal(other, first, "order")


@pytest.mark.parametrize("mode", ["plain", "reversed"])
def test_norm_mlp_keeps_to_its_share(mode: str) -> None:
    """Tiles of two groups, of which a share's last tile may hold one: the other is the next block's."""
    assert plan_gemv(1100, 64, 1, "float16", "dense").groups == 2
    actual, expected, by_torch = run(mode, 1, 1100, 64, "float16", kind="layer", gated=False)
    assert_as_close_as_torch(actual, expected, by_torch, mode)


def test_norm_mlp_refuses_what_it_lacks() -> None:
    with pytest.raises(UnsupportedError, match="multiple of 8"):
        run("plain", 1, 16, 111, "float32")
    with pytest.raises(UnsupportedError, match="1 to 16"):
        run("plain", 17, 16, 64, "float32")
    with pytest.raises(ValueError, match="gate and an up row"):
        run("plain", 1, 17, 64, "float32")
