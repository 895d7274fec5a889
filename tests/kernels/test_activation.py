"""activation.cu against the reference: every function, plain and gated, as close as torch, every mode."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from eet_demo.engine.executors.cuda.arrays import DType
from eet_demo.engine.executors.cuda.launchers.activation import ACTIVATION_CODE, activation
from eet_demo.engine.executors.reference import many_rows as reference_many_rows
from eet_demo.engine.spec import Activation
from eet_demo.errors import UnsupportedError
from tests.kernels.harness import ALL_MODES, DTYPES, assert_as_close_as_torch, launcher, rng, rounded

BY_TORCH = {
    "gelu_tanh": lambda x: torch.nn.functional.gelu(x, approximate="tanh"),
    "gelu_erf": torch.nn.functional.gelu,
    "silu": torch.nn.functional.silu,
    "relu": torch.nn.functional.relu,
}


def run(mode: str, rows: int, n: int, dtype: DType, kind: Activation, gated: bool, bias: bool = True) -> None:
    """One launch, compared; values reach far into both tails."""
    device, random = launcher(mode), rng(rows, n)
    width = 2 * n if gated else n
    x = rounded(4 * random.standard_normal((rows, width)), dtype)
    shift = rounded(random.standard_normal(width), dtype) if bias else None
    out = activation(
        device,
        device.upload(x, dtype),
        dtype=dtype,
        kind=kind,
        gated=gated,
        out=device.empty((rows, n), dtype),
        bias=None if shift is None else device.upload(shift, dtype),
    )
    expected = reference_many_rows.activation(
        x.astype(np.float64), None if shift is None else shift.astype(np.float64), gated, kind
    )
    y = torch.from_numpy(x if shift is None else x + shift).to(getattr(torch, dtype))
    y = BY_TORCH[kind](y[:, ::2]) * y[:, 1::2] if gated else BY_TORCH[kind](y)
    context = f"{mode} {dtype} {kind} gated={gated} rows={rows} n={n}"
    assert_as_close_as_torch(device.download(out), expected, y.float().numpy(), context)


@pytest.mark.parametrize("kind", ACTIVATION_CODE)
@pytest.mark.parametrize("dtype", DTYPES)
def test_activation_of_every_kind(dtype: DType, kind: Activation) -> None:
    run("plain", 17, 1536, dtype, kind, gated=kind == "silu")


@pytest.mark.parametrize("n", [8, 576, 2560, 11008, 49152])
@pytest.mark.parametrize("gated", [False, True])
def test_activation_of_every_length(n: int, gated: bool) -> None:
    run("reversed", 2, n, "float16", "gelu_tanh", gated)
    run("plain", 1, n, "float32", "silu", gated, bias=False)


@pytest.mark.parametrize("rows", [1, 33, 129])
def test_activation_of_any_number_of_rows(rows: int) -> None:
    run("shuffled", rows, 64, "bfloat16", "silu", gated=True, bias=rows == 33)


@pytest.mark.parametrize("mode", ALL_MODES)
@pytest.mark.parametrize("gated", [False, True])
def test_activation_is_clean_in_every_mode(mode: str, gated: bool) -> None:
    run(mode, 3, 4352, "float16", "gelu_erf", gated)


def test_activation_refuses_a_row_of_111_values() -> None:
    with pytest.raises(UnsupportedError, match="multiple of 8"):
        run("plain", 1, 111, "float32", "relu", gated=False)
