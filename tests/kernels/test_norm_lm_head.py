"""norm_lm_head.cu against the reference: logits of the wanted rows, and each block's best token."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch

from eet_demo.engine.executors.cuda.arrays import DType
from eet_demo.engine.executors.cuda.launchers.gemv import GemvPlan
from eet_demo.engine.executors.cuda.launchers.matrices import WeightFormat, upload_dense
from eet_demo.engine.executors.cuda.launchers.norm_lm_head import Candidates, instance, norm_lm_head
from eet_demo.engine.executors.cuda.launchers.norms import NO_NORM, NormKind
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
from tests.kernels.projections import make_norm, to_numpy, torch_linear

RESIDUAL_ROWS = 19


@dataclass(frozen=True)
class Result:
    logits: np.ndarray
    best_logits: np.ndarray
    best_ids: np.ndarray
    plan: GemvPlan
    expected: np.ndarray
    by_torch: np.ndarray


def run(
    mode: str, rows: int, vocab: int, k: int, dtype: DType, weights: WeightFormat = "dense", *, kind: NormKind = "rms",
    bias: bool = False, scale: float = 1.0, soft_cap: float | None = None, equal_tokens: int = 1, store: bool = True,
) -> Result:  # fmt: skip
    """`equal_tokens` neighbouring tokens share a weight row, and so a logit; `store` false leaves the logits."""
    device, random = launcher(mode), rng(rows, vocab, k)
    matrix, weight = make_matrix(device, random, vocab, k, dtype, weights)
    if equal_tokens > 1:
        weight = np.repeat(weight[::equal_tokens], equal_tokens, axis=0)[:vocab]
        matrix = upload_dense(device, weight, dtype)
    residual = random.standard_normal((RESIDUAL_ROWS, k)).astype(np.float32)
    wanted = random.permutation(RESIDUAL_ROWS)[:rows].astype(np.int32)
    b = rounded(random.standard_normal(vocab), dtype) if bias else None
    norm = make_norm(random, kind, k)
    plan = instance(vocab, k, rows, dtype, weights, kind)[1]
    logits = device.empty((rows, vocab), "float32")
    shape = (rows, plan.blocks(device))
    best = Candidates(device.empty(shape, "float32"), device.empty(shape, "int32"))
    norm_lm_head(
        device, device.upload(residual, "float32"), device.upload(wanted, "int32"), norm.upload(device), matrix,
        dtype=dtype, logits=logits if store else None, candidates=best,
        bias=None if b is None else device.upload(b, dtype), scale=scale, soft_cap=soft_cap,
    )  # fmt: skip
    expected = reference.norm_lm_head(norm.apply(residual[wanted]), weight.astype(np.float64), b, scale, soft_cap)
    z = to_numpy(torch_linear(norm.torch(torch.from_numpy(residual[wanted]), dtype), weight, b, dtype))
    by_torch = reference.soft_cap(np.float32(scale) * z, soft_cap)
    found, best_logits, best_ids = map(device.download, (logits, best.best_logits, best.best_ids))
    return Result(found, best_logits, best_ids, plan, expected, by_torch)


def shares(plan: GemvPlan, blocks: int) -> list[tuple[int, int]]:
    """First and last (exclusive) token of every block: equal shares of whole units, the first ones larger by one."""
    rows = plan.tile // plan.groups
    return [(units[0] * rows, (units[-1] + 1) * rows) for units in np.array_split(np.arange(plan.units), blocks)]


def assert_candidates(result: Result, context: str) -> None:
    """Block by block: the highest of its stored logits and the lowest id that has it, to the bit."""
    for block, (first, last) in enumerate(shares(result.plan, result.best_ids.shape[1])):
        part = result.logits[:, first:last]
        assert_equal(result.best_ids[:, block], part.argmax(axis=1) + first, f"{context} ids of block {block}")
        assert_equal(result.best_logits[:, block], part.max(axis=1), f"{context} block {block}")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("k", [576, 1600, 4096, 12288])
def test_norm_lm_head_takes_every_width(dtype: DType, k: int) -> None:
    result = run("shuffled", 3, 101, k, dtype)
    assert_as_close_as_torch(result.logits, result.expected, result.by_torch, f"{dtype} k={k}")
    assert_candidates(result, f"{dtype} k={k}")


@pytest.mark.parametrize("rows", [1, 3, 16])
@pytest.mark.parametrize("weights", FORMATS)
def test_norm_lm_head_reads_every_format(weights: WeightFormat, rows: int) -> None:
    result = run("plain", rows, 101, 768, "float16", weights)
    assert_as_close_as_torch(result.logits, result.expected, result.by_torch, f"{weights} rows={rows}")
    assert_candidates(result, f"{weights} rows={rows}")


@pytest.mark.parametrize("rows", [2, 16])
def test_norm_lm_head_adds_bias_scales_and_caps(rows: int) -> None:
    result = run("shuffled", rows, 45, 576, "float32", kind="layer", bias=True, scale=0.5, soft_cap=5.0)
    assert_as_close_as_torch(result.logits, result.expected, result.by_torch, f"rows={rows}")
    assert np.abs(result.logits).max() <= 5.0
    assert_candidates(result, f"rows={rows}")


@pytest.mark.parametrize(("rows", "vocab", "equal"), [(1, 8210, 5), (16, 16400, 40)])
def test_norm_lm_head_gives_ties_to_the_lower_id(rows: int, vocab: int, equal: int) -> None:
    """Equal tokens meet in a lane, in a tile, in the tiles of a block, and in two blocks."""
    result = run("shuffled", rows, vocab, 64, "float16", equal_tokens=equal)
    first, last = shares(result.plan, result.best_ids.shape[1])[0]
    assert last - first > 2 * result.plan.tile, "a block must have several tiles"
    assert_candidates(result, f"rows={rows}")
    best = np.take_along_axis(result.best_ids, result.best_logits.argmax(axis=1)[:, None], axis=1)[:, 0]
    assert_equal(best, result.logits.argmax(axis=1), "greedy from the candidates")


def test_norm_lm_head_hands_on_a_nan() -> None:
    """The block that holds a NaN reports it, whichever lane met it and however high the others are."""
    device, (rows, vocab, k) = launcher("shuffled"), (16, 16400, 64)
    plan = instance(vocab, k, rows, "float16", "dense", "none")[1]
    bias = np.zeros(vocab, np.float32)
    broken = np.array([3, 5000])
    bias[broken] = np.nan
    shape = (rows, plan.blocks(device))
    best = Candidates(device.empty(shape, "float32"), device.empty(shape, "int32"))
    norm_lm_head(
        device, device.upload(rng(8).standard_normal((rows, k)), "float32"),
        device.upload(np.arange(rows), "int32"), NO_NORM,
        upload_dense(device, rng(9).standard_normal((vocab, k)), "float16"), dtype="float16",
        candidates=best, bias=device.upload(bias, "float16"),
    )  # fmt: skip
    found = np.isnan(device.download(best.best_logits))
    firsts = [first for first, _ in shares(plan, shape[1])]
    blocks = np.searchsorted(firsts, broken, side="right") - 1
    assert len(set(blocks)) == 2, "two blocks each meet one"
    assert found[:, blocks].all()
    assert found.sum() == found[:, blocks].size
    assert (device.download(best.best_ids)[:, blocks] == broken).all()


def test_norm_lm_head_leaves_the_logits_where_candidates_are_enough() -> None:
    stored, left = (run("plain", 3, 101, 576, "float16", store=store) for store in (True, False))
    assert np.isnan(left.logits).all(), "logits written although none were asked for"
    assert_equal(left.best_ids, stored.best_ids, "ids")
    assert_equal(left.best_logits, stored.best_logits, "logits")


@pytest.mark.parametrize("mode", ALL_MODES)
@pytest.mark.parametrize(("rows", "weights"), [(3, "q8_0"), (16, "dense")])
def test_norm_lm_head_is_clean_in_every_mode(mode: str, rows: int, weights: WeightFormat) -> None:
    result = run(mode, rows, 29, 1600, "float16", weights, soft_cap=30.0)
    assert_as_close_as_torch(result.logits, result.expected, result.by_torch, f"{mode} rows={rows}")
    assert_candidates(result, f"{mode} rows={rows}")


@pytest.mark.parametrize("mode", NARROW_MODES)
@pytest.mark.parametrize("rows", [1, 16])
def test_norm_lm_head_walks_through_tiles(mode: str, rows: int) -> None:
    result = run(mode, rows, 100, 576, "float16", bias=True)
    assert_as_close_as_torch(result.logits, result.expected, result.by_torch, f"{mode} rows={rows}")
    assert_candidates(result, f"{mode} rows={rows}")


@pytest.mark.parametrize("mode", ["plain", "reversed"])
def test_norm_lm_head_keeps_to_its_share(mode: str) -> None:
    """Tiles of two groups, of which a share's last tile may hold one: the other is the next block's."""
    result = run(mode, 1, 1100, 64, "float16")
    assert result.plan.groups == 2
    assert_as_close_as_torch(result.logits, result.expected, result.by_torch, mode)
    assert_candidates(result, mode)


def test_norm_lm_head_refuses_what_it_lacks() -> None:
    with pytest.raises(UnsupportedError, match="multiple of 8"):
        run("plain", 1, 16, 111, "float32")
    with pytest.raises(UnsupportedError, match="1 to 16"):
        run("plain", 17, 16, 64, "float32")
    with pytest.raises(ValueError, match="not positive"):
        run("plain", 1, 16, 64, "float32", soft_cap=0.0)
