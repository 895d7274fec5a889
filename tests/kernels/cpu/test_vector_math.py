"""exp, log, tanh, erf, sigmoid, sine and cosine of vector.h: a few units in the last place over the ranges in use."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from eet_demo.engine.executors.cpu import compiler

EPS = float(np.finfo(np.float32).eps)
N = 4096

Function = Callable[[str, np.ndarray], np.ndarray]


@pytest.fixture(scope="module", params=["native", "portable"])
def compiled(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Function:
    """The functions as this machine's widest vectors compute them, and as plain SSE2 or NEON does."""
    flags = [*compiler.FLAGS, f"-I{compiler.SOURCES}", *(["-march=native"] if request.param == "native" else [])]
    target = tmp_path_factory.mktemp("math") / "math.so"
    source = Path(__file__).with_name("vector_math.cpp")
    compiler.compile_library(compiler.find_compiler(), flags, source, target)
    library = ctypes.CDLL(str(target))

    def call(name: str, x: np.ndarray) -> np.ndarray:
        y = np.empty_like(x)
        pointers = (ctypes.c_void_p(array.ctypes.data) for array in (x, y))
        library.vector_math(name.encode(), *pointers, ctypes.c_int64(len(x)))
        return y

    return call


def spread(low: float, high: float) -> np.ndarray:
    return np.random.default_rng(0).uniform(low, high, N).astype(np.float32)


def near_one() -> np.ndarray:
    return (1 - np.exp(spread(-16, -0.1))).astype(np.float32)


RELATIVE: dict[str, tuple[str, np.ndarray, Callable[[np.ndarray], np.ndarray], float]] = {
    "exp": ("exp", spread(-87, 88.7), np.exp, 2),
    "exp-near-zero": ("exp", spread(-1e-3, 1e-3), np.exp, 1),
    "log-below-one": ("log", np.exp(spread(-80, 0)).astype(np.float32), np.log, 2),
    "log-near-one": ("log", near_one(), np.log, 2),
    "tanh": ("tanh", spread(-10, 10), np.tanh, 2),
    "tanh-near-zero": ("tanh", spread(-1e-3, 1e-3), np.tanh, 1),
    "erf": ("erf", spread(-4.5, 4.5), np.vectorize(math.erf), 4),
    "sigmoid": ("sigmoid", spread(-80, 80), lambda x: 1 / (1 + np.exp(-x)), 3),
}


@pytest.mark.parametrize("name", list(RELATIVE))
def test_relative_error(compiled: Function, name: str) -> None:
    function, x, exact, ulps = RELATIVE[name]
    expected = exact(x.astype(np.float64))
    error = np.abs(compiled(function, x) / expected - 1)
    assert error.max() <= ulps * EPS, f"{error.max() / EPS:.2f} eps at {x[error.argmax()]}"


@pytest.mark.parametrize(("function", "exact"), [("sin", np.sin), ("cos", np.cos)])
@pytest.mark.parametrize("reach", [1.0, 1000.0, 16000.0])
def test_sine_and_cosine_absolute_error(
    compiled: Function, function: str, exact: Callable[[np.ndarray], np.ndarray], reach: float
) -> None:
    """Of the float32 angle itself, however many turns it holds; three roundings where multiply-add is not fused."""
    x = spread(-reach, reach)
    error = np.abs(compiled(function, x) - exact(x.astype(np.float64)))
    assert error.max() <= 3 * EPS, f"{error.max() / EPS:.2f} eps at {x[error.argmax()]}"


def test_edges(compiled: Function) -> None:
    x = np.full(16, np.nan, np.float32)
    x[:6] = [-np.inf, -1e30, -88, 0, 88.72, 1e30]
    y = compiled("exp", x)
    assert y[:4].tolist() == [0, 0, 0, 1]
    assert np.isfinite(y[4:6]).all()
    x[:4] = [-1e30, 1e30, 0, -0.0]
    assert compiled("tanh", x)[:3].tolist() == [-1, 1, 0]
    assert compiled("erf", x)[:3].tolist() == [-1, 1, 0]
    assert compiled("sigmoid", x)[1:3].tolist() == [1, 0.5]
    assert 0 <= compiled("sigmoid", x)[0] < 1e-38
    for function in ("exp", "tanh", "erf", "sigmoid"):
        assert np.isnan(compiled(function, np.full(16, np.nan, np.float32))).all(), f"{function} hides a NaN"
