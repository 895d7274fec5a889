"""norm_qkv.cu against the reference: heads of every shape, both rotary pairings, q/k norms, the cache slot by slot."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from eet_demo.engine.executors.cuda.arrays import DType
from eet_demo.engine.executors.cuda.compile.launch import Launcher
from eet_demo.engine.executors.cuda.launchers.gemv import plan_gemv
from eet_demo.engine.executors.cuda.launchers.matrices import WeightFormat
from eet_demo.engine.executors.cuda.launchers.norm_qkv import QkScratch, norm_qkv
from eet_demo.engine.executors.cuda.launchers.norms import NormKind, QkNorm
from eet_demo.engine.executors.cuda.launchers.ragged_rows import RaggedRows
from eet_demo.engine.executors.reference import kernels as reference
from eet_demo.errors import UnsupportedError
from tests.kernels.harness import (
    ALL_MODES,
    DTYPES,
    FORMATS,
    NARROW_MODES,
    assert_as_close_as_torch,
    assert_equal,
    launcher,
    make_matrix,
    rng,
    rounded,
)
from tests.kernels.projections import EPS, TORCH, HostNorm, make_norm, to_numpy, torch_linear

MAX_BATCH = 5


@dataclass(frozen=True)
class Case:
    """Rows of each sequence, the slots filled before them, the model's shape; the longest sequence fills its cache."""

    rows: tuple[int, ...] = (1,)
    starts: tuple[int, ...] = (6,)
    heads: tuple[int, int, int] = (3, 1, 16)
    hidden: int = 64
    dtype: DType = "float32"
    weights: WeightFormat = "dense"
    kind: NormKind = "rms"
    bias: bool = False
    rotary_dim: int | None = None
    pairs: str = "half"
    qk_norm: NormKind = "none"
    whole: bool = False
    cache_rows: tuple[int, ...] = field(default=(3, 0, 4, 1, 2))

    @property
    def max_context(self) -> int:
        return max(start + rows for start, rows in zip(self.starts, self.rows, strict=True))


@dataclass(frozen=True)
class Result:
    """q and the cache (2, MAX_BATCH, num_kv_heads, max_context, head_dim); NaN where nothing was written."""

    q: NDArray[Any]
    cache: NDArray[Any]


def run(mode: str, case: Case) -> tuple[Result, Result, Result]:
    """The kernel's result, the reference's in float64, torch's in the case's dtype."""
    device, random = launcher(mode), rng(*case.rows, case.hidden, *case.heads)
    num_heads, num_kv_heads, head_dim = case.heads
    width, total = (num_heads + 2 * num_kv_heads) * head_dim, sum(case.rows)
    matrix, weight = make_matrix(device, random, width, case.hidden, case.dtype, case.weights)
    residual = random.standard_normal((total, case.hidden)).astype(np.float32)
    b = rounded(random.standard_normal(width), case.dtype) if case.bias else None
    norm = make_norm(random, case.kind, case.hidden)
    q_norm = make_norm(random, case.qk_norm, head_dim * (num_heads if case.whole else 1))
    k_norm = make_norm(random, case.qk_norm, head_dim * (num_kv_heads if case.whole else 1))
    rotary_dim = head_dim if case.rotary_dim is None else case.rotary_dim
    exponents = -np.arange(0, rotary_dim, 2) / max(1, rotary_dim)
    frequencies = (1e4**exponents).astype(np.float32) if rotary_dim else None
    slots = [np.arange(start, start + rows) for start, rows in zip(case.starts, case.rows, strict=True)]
    positions = np.concatenate(slots).astype(np.int32)
    shape = (MAX_BATCH, num_kv_heads, case.max_context, head_dim)
    keys, values = device.empty(shape, case.dtype), device.empty(shape, case.dtype)
    out = device.empty((total, num_heads * head_dim), case.dtype)
    options, counters = qk_options(device, case, q_norm, k_norm, total)
    norm_qkv(
        device, device.upload(residual, "float32"), norm.upload(device), matrix, device.upload(positions, "int32"),
        ragged(device, case), dtype=case.dtype, keys=keys, values=values, out=out,
        bias=None if b is None else device.upload(b, case.dtype),
        frequencies=None if frequencies is None else device.upload(frequencies, "float32"),
        interleaved=case.pairs == "interleaved", **options,
    )  # fmt: skip
    if counters is not None:
        assert_equal(device.download(counters), np.zeros(counters.shape, np.uint32), f"{case} counters")
    q = device.download(out).reshape(total, num_heads, head_dim)
    actual = Result(q, np.stack([device.download(keys), device.download(values)]))

    def compose(normed: NDArray[Any], w: NDArray[Any], qk: Callable[[Any, bool], Any] | None) -> Result:
        parts = reference.norm_qkv(normed, w, b, case.heads, positions, frequencies, case.pairs, qk, not case.whole)
        return placed(case, *parts)

    exact = (lambda x, is_key: (k_norm if is_key else q_norm).apply(x)) if case.qk_norm != "none" else None
    expected = compose(norm.apply(residual), weight.astype(np.float64), exact)
    by_torch = placed(case, *torch_qkv(case, norm, weight, b, residual, positions, frequencies, q_norm, k_norm))
    return actual, expected, by_torch


def ragged(device: Launcher, case: Case) -> RaggedRows:
    starts = np.concatenate([[0], np.cumsum(case.rows)]).astype(np.int32)
    rows = np.array(case.cache_rows[: len(case.rows)], np.int32)
    filled = np.array(case.starts, np.int32)
    return RaggedRows(*(device.upload(array, "int32") for array in (starts, rows, filled)))


def qk_options(
    device: Launcher, case: Case, q_norm: HostNorm, k_norm: HostNorm, total: int
) -> tuple[dict[str, Any], Any]:
    if case.qk_norm == "none":
        return {}, None
    num_heads, num_kv_heads, head_dim = case.heads
    q, k = q_norm.upload(device), k_norm.upload(device)
    assert q.weight is not None
    assert k.weight is not None
    workspace = device.empty((total, (num_heads + num_kv_heads) * head_dim), "float32")
    counters = device.upload(np.zeros(num_heads + num_kv_heads, np.uint32), "uint32")
    norm = QkNorm(case.qk_norm, case.whole, q.weight, k.weight, q.bias, k.bias, EPS)
    return {"qk_norm": norm, "scratch": QkScratch(workspace, counters)}, counters


def placed(case: Case, q: NDArray[Any], k: NDArray[Any], v: NDArray[Any]) -> Result:
    cache = np.full((2, MAX_BATCH, case.heads[1], case.max_context, case.heads[2]), np.nan)
    first = 0
    for b, (start, rows) in enumerate(zip(case.starts, case.rows, strict=True)):
        for index, part in enumerate((k, v)):
            reference.append_cache(cache[index, case.cache_rows[b]], part[first : first + rows], start)
        first += rows
    return Result(q, cache)


def torch_qkv(
    case: Case, norm: HostNorm, weight: NDArray[Any], bias: NDArray[Any] | None, residual: NDArray[Any],
    positions: NDArray[Any], frequencies: NDArray[Any] | None, q_norm: HostNorm, k_norm: HostNorm,
) -> list[NDArray[np.float32]]:  # fmt: skip
    """transformers' sequence of operations, each rounded to the dtype."""
    num_heads, num_kv_heads, head_dim = case.heads
    dtype = TORCH[case.dtype]
    y = torch_linear(norm.torch(torch.from_numpy(residual), case.dtype), weight, bias, case.dtype)
    sizes = [num_heads * head_dim, num_kv_heads * head_dim, num_kv_heads * head_dim]
    parts = list(torch.split(y, sizes, dim=1))
    for index, part_norm in enumerate((q_norm, k_norm)):
        if case.qk_norm != "none":
            x = parts[index] if case.whole else parts[index].reshape(len(y), -1, head_dim)
            parts[index] = part_norm.torch(x, case.dtype)
    heads = [part.reshape(len(y), -1, head_dim).clone() for part in parts]
    if frequencies is not None:
        half = len(frequencies)
        angles = torch.from_numpy(positions.astype(np.float32)[:, None] * frequencies)
        cos, sin = angles.cos().to(dtype)[:, None], angles.sin().to(dtype)[:, None]
        first = slice(0, half) if case.pairs == "half" else slice(0, 2 * half, 2)
        second = slice(half, 2 * half) if case.pairs == "half" else slice(1, 2 * half, 2)
        for x in heads[:2]:
            a, b = x[..., first].clone(), x[..., second].clone()
            x[..., first], x[..., second] = a * cos - b * sin, b * cos + a * sin
    return [to_numpy(x) for x in heads]


def check(mode: str, case: Case) -> None:
    actual, expected, by_torch = run(mode, case)
    assert_as_close_as_torch(actual.q, expected.q, by_torch.q, f"{mode} {case} q")
    assert_equal(np.isnan(actual.cache), np.isnan(expected.cache), f"{mode} {case} slots written")
    written = ~np.isnan(expected.cache)
    assert_as_close_as_torch(
        actual.cache[written], expected.cache[written], by_torch.cache[written], f"{mode} {case} cache"
    )


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("hidden", [576, 768, 1600, 2560, 4096, 12288])
def test_norm_qkv_takes_every_width(dtype: DType, hidden: int) -> None:
    check("shuffled", Case(rows=(1, 1, 1), starts=(6, 0, 2), hidden=hidden, dtype=dtype))


@pytest.mark.parametrize("batch", [1, 3, 16])
@pytest.mark.parametrize("weights", FORMATS)
def test_norm_qkv_reads_every_format(weights: WeightFormat, batch: int) -> None:
    rows = {1: (1,), 3: (1, 1, 1), 16: (4, 1, 7, 1, 3)}[batch]
    starts = (6, 0, 2, 9, 1)[: len(rows)]
    check("plain", Case(rows, starts, hidden=768, dtype="float16", weights=weights))


@pytest.mark.parametrize("pairs", ["half", "interleaved"])
@pytest.mark.parametrize(
    "heads", [(1, 1, 64), (9, 3, 64), (4, 1, 80), (7, 1, 96), (4, 4, 8), (2, 2, 24), (2, 1, 256)], ids=str
)
def test_norm_qkv_takes_every_shape_of_heads(heads: tuple[int, int, int], pairs: str) -> None:
    check("plain", Case(rows=(2, 1), starts=(0, 5), heads=heads, pairs=pairs, bias=True, dtype="bfloat16"))


@pytest.mark.parametrize("pairs", ["half", "interleaved"])
@pytest.mark.parametrize("rotary_dim", [0, 8, 24, 80])
def test_norm_qkv_rotates_the_leading_elements_alone(rotary_dim: int, pairs: str) -> None:
    check("plain", Case(rows=(2, 1), starts=(40, 5), heads=(2, 1, 80), rotary_dim=rotary_dim, pairs=pairs))


@pytest.mark.parametrize("rows", [(16,), (1, 1, 9, 1, 1), (3, 0, 2)], ids=str)
@pytest.mark.parametrize("dtype", DTYPES)
def test_norm_qkv_puts_ragged_rows_into_their_slots(dtype: DType, rows: tuple[int, ...]) -> None:
    check("shuffled", Case(rows, (0, 3, 1, 11, 4)[: len(rows)], heads=(4, 2, 24), bias=True, dtype=dtype))


@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize("qk_norm", ["layer", "rms"])
@pytest.mark.parametrize("rows", [(1,), (2, 1), (16,)], ids=str)
def test_norm_qkv_normalises_q_and_k(rows: tuple[int, ...], qk_norm: NormKind, whole: bool) -> None:
    starts = (3, 7)[: len(rows)]
    check("shuffled", Case(rows, starts, heads=(4, 2, 40), bias=True, qk_norm=qk_norm, whole=whole, dtype="float16"))


@pytest.mark.parametrize("kind", ["none", "layer"])
def test_norm_qkv_takes_the_other_norms(kind: NormKind) -> None:
    check("plain", Case(rows=(1, 1), starts=(3, 4), hidden=576, kind=kind))


CLEAN = (
    Case(rows=(1, 2), starts=(4, 0), hidden=576, dtype="float16", weights="q4_1"),
    Case(rows=(1, 1), starts=(4, 2), heads=(2, 1, 16), hidden=64, bias=True, qk_norm="layer", whole=True),
    Case(rows=(8, 2), starts=(0, 2), heads=(2, 2, 40), hidden=64, dtype="bfloat16", qk_norm="rms"),
)


@pytest.mark.parametrize("mode", ALL_MODES)
@pytest.mark.parametrize("case", CLEAN, ids=["plain", "whole", "head"])
def test_norm_qkv_is_clean_in_every_mode(mode: str, case: Case) -> None:
    check(mode, case)


TILED = (
    Case(rows=(1, 1), starts=(4, 2), heads=(4, 2, 40), hidden=576, bias=True, dtype="float16"),
    Case(rows=(2,), starts=(4,), heads=(4, 2, 40), hidden=64, bias=True, qk_norm="layer", whole=True),
    Case(rows=(1,), starts=(4,), heads=(5, 5, 8), hidden=64, qk_norm="rms", pairs="interleaved"),
)


@pytest.mark.parametrize("mode", NARROW_MODES)
@pytest.mark.parametrize("case", TILED, ids=["plain", "whole", "head"])
def test_norm_qkv_walks_through_tiles(mode: str, case: Case) -> None:
    """Tiles straddle heads, and a head's pairs come from several blocks."""
    check(mode, case)


@pytest.mark.parametrize("whole", [False, True])
def test_norm_qkv_finishes_heads_that_share_a_tile(whole: bool) -> None:
    """Heads of four pairs in tiles of eight: a block may add the last pairs of several heads at once."""
    case = Case(heads=(300, 50, 8), hidden=64, rows=(1,), starts=(3,), qk_norm="rms", whole=whole)
    assert plan_gemv(3200, 64, 1, case.dtype, "dense").tile == 16
    check("plain", case)


def test_norm_qkv_reads_no_row_past_the_last() -> None:
    """12 pairs are 24 rows of weights, which end in the midst of a warp's 16."""
    check("address", Case(heads=(1, 1, 8), hidden=64, rows=(1,), starts=(3,), dtype="float16", weights="q8_0"))


def test_norm_qkv_refuses_what_it_lacks() -> None:
    for case, words in (
        (Case(hidden=104, weights="dense", heads=(3, 2, 16)), "share"),
        (Case(hidden=111), "multiple of 8"),
        (Case(rows=(17,)), "1 to 16"),
        (Case(heads=(1, 1, 12)), "head_dim 12"),
        (Case(rotary_dim=18), "18 elements of 16"),
    ):
        with pytest.raises(UnsupportedError, match=words):
            run("plain", case)


def test_norm_qkv_refuses_a_scratch_without_a_norm() -> None:
    device, case = launcher("plain"), CLEAN[1]
    norm = make_norm(rng(1), "layer", 16)
    options, _ = qk_options(device, replace(case, whole=False), norm, norm, 2)
    matrix, _ = make_matrix(device, rng(1), 64, 64, "float32", "dense")
    cache = device.empty((MAX_BATCH, 1, 8, 16), "float32")
    arguments = (device.empty((2, 64), "float32"), make_norm(rng(1), "rms", 64).upload(device), matrix)
    positions = device.upload(np.zeros(2), "int32")
    with pytest.raises(ValueError, match="together"):
        norm_qkv(
            device, *arguments, positions, ragged(device, case), dtype="float32", keys=cache, values=cache,
            out=device.empty((2, 32), "float32"), scratch=options["scratch"],
        )  # fmt: skip
