"""What every kernel test uses: launchers by mode, inputs as the kernels hold them, and the two rules of comparison."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from eet_demo.engine.blocks import dequantise
from eet_demo.engine.executors.cuda.arrays import DType, from_host, to_host
from eet_demo.engine.executors.cuda.compile.launch import Launcher
from eet_demo.engine.executors.cuda.compile.sources import CUDA_SOURCES
from eet_demo.engine.executors.cuda.launchers.matrices import (
    BLOCK_BYTES,
    Matrix,
    WeightFormat,
    upload_blocks,
    upload_dense,
)
from eet_demo.engine.executors.sim.build import SimMode
from eet_demo.engine.executors.sim.launcher import SIMULATED_PROCESSORS, SimLauncher

DTYPES: tuple[DType, ...] = ("float32", "float16", "bfloat16")
FORMATS: tuple[WeightFormat, ...] = ("dense", "q8_0", "q4_0", "q4_1")

PLAIN_MODES = ("plain", "reversed", "shuffled")
"""In this process, threads in natural, reversed and random order."""

SANITIZED_MODES = ("address", "race")
"""A process a launch; small shapes only: at most 4,000 threads."""

GPU = pytest.param("gpu", marks=pytest.mark.gpu)

ORDERS = [*PLAIN_MODES, GPU]
ALL_MODES = [*PLAIN_MODES, *SANITIZED_MODES, GPU]


NARROW_MODES = ("plain@1", "address@1", "race@1")
"""One multiprocessor, so that every block walks through several tiles."""


def simulator(mode: str, seed: int, folder: Path = CUDA_SOURCES, processors: int = SIMULATED_PROCESSORS) -> SimLauncher:
    """The simulator in a sanitizer's mode, else plain: then `seed` is the order of threads."""
    kind: SimMode = "address" if mode == "address" else "race" if mode == "race" else "plain"
    return SimLauncher(kind, seed=seed, folder=folder, processors=processors)


@cache
def launcher(mode: str) -> Launcher:
    """The launcher of a mode; `gpu` skips where there is no device, `@n` simulates n multiprocessors."""
    mode, _, narrow = mode.partition("@")
    processors = int(narrow or SIMULATED_PROCESSORS)
    if mode == "gpu":
        from eet_demo.engine.executors.cuda.compile.cupy_launcher import CupyLauncher
        from eet_demo.errors import UnsupportedError

        try:
            return CupyLauncher()
        except UnsupportedError as error:
            pytest.skip(str(error))
    return simulator(mode, {"plain": 0, "reversed": 1, "shuffled": 12345}.get(mode, 3), processors=processors)


def rng(*seed: int) -> np.random.Generator:
    return np.random.default_rng(seed or (0,))


def rounded(values: NDArray[Any], dtype: DType) -> NDArray[np.float32]:
    """`values` after a trip through `dtype`, as float32: what the kernel really reads."""
    return from_host(to_host(values, dtype), dtype).astype(np.float32)


def random_blocks(generator: np.random.Generator, rows: int, columns: int, weights: WeightFormat) -> NDArray[np.uint8]:
    """Raw GGUF blocks of a random matrix, (rows, columns / 32 * block bytes) uint8: every quant, small scales."""
    header = 4 if weights == "q4_1" else 2
    scales = (generator.standard_normal((rows, columns // 32, header // 2)) * 0.05).astype(np.float16)
    quants = generator.integers(0, 256, (rows, columns // 32, BLOCK_BYTES[weights] - header), dtype=np.uint8)
    return np.concatenate([scales.view(np.uint8), quants], axis=-1).reshape(rows, -1)


def make_matrix(
    device: Launcher, generator: np.random.Generator, rows: int, columns: int, dtype: DType, weights: WeightFormat
) -> tuple[Matrix, NDArray[np.float32]]:
    """A random weight on the device and the float32 values it stands for (by code that is held to the gguf package)."""
    if weights == "dense":
        values = generator.standard_normal((rows, columns)).astype(np.float32)
        return upload_dense(device, values, dtype), rounded(values, dtype)
    raw = random_blocks(generator, rows, columns, weights)
    return upload_blocks(device, raw, weights), dequantise(raw, weights)


def assert_float32_close(actual: NDArray[Any], expected: NDArray[Any], context: str, tolerance: float = 1e-5) -> None:
    """|actual - expected| <= tolerance * (1 + max|expected|): for results the kernel computes and stores in float32.

    `expected` comes from float64; the scale is that of the whole array, as sums of mixed signs lose relative digits.
    """
    assert actual.shape == expected.shape, f"{context}: shape {actual.shape}, expected {expected.shape}"
    error = np.abs(actual.astype(np.float64) - expected)
    bound = tolerance * (1 + float(np.abs(expected).max()))
    if not (error <= bound).all():  # NaN fails too
        _fail(actual, expected, error, bound, context)


def assert_as_close_as_torch(
    actual: NDArray[Any], expected: NDArray[Any], torch_result: NDArray[Any], context: str
) -> None:
    """max|actual - expected| <= 2 max|torch - expected| + 1e-5: for results in half types (FlashAttention's rule).

    `expected` is float64 on the rounded inputs, `torch_result` torch's own result in the tested dtype on the CPU.
    """
    assert actual.shape == expected.shape == torch_result.shape, f"{context}: {actual.shape}, {expected.shape}"
    error = np.abs(actual.astype(np.float64) - expected)
    bound = 2 * float(np.abs(torch_result.astype(np.float64) - expected).max()) + 1e-5
    if not (error <= bound).all():
        _fail(actual, expected, error, bound, context)


def assert_equal(actual: NDArray[Any], expected: NDArray[Any], context: str) -> None:
    """Bit for bit, NaN equal to NaN: for copies, casts and appends."""
    assert actual.shape == expected.shape, f"{context}: shape {actual.shape}, expected {expected.shape}"
    same = (actual == expected) | ((actual != actual) & (expected != expected))
    if not same.all():
        _fail(actual, expected, ~same, 0.0, context)


def _fail(actual: NDArray[Any], expected: NDArray[Any], error: NDArray[Any], bound: float, context: str) -> None:
    bad = ~(error <= bound)
    first = tuple(int(i) for i in np.argwhere(bad)[0])
    raise AssertionError(
        f"{context}: {int(bad.sum())} of {bad.size} values differ; first at {first}: {actual[first]!r}, "
        f"expected {expected[first]!r}; largest error {np.nanmax(error):.3g}, allowed {bound:.3g}"
    )
