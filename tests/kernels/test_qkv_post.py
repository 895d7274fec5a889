"""qkv_post.cu against the reference: exact copies, norms, both pairings, the right slots and no other, every mode."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from eet_demo.engine.executors.cuda.arrays import DType
from eet_demo.engine.executors.cuda.launchers.norms import NormKind, QkNorm
from eet_demo.engine.executors.cuda.launchers.qkv_post import qkv_post
from eet_demo.engine.executors.reference import kernels as reference
from eet_demo.engine.executors.reference import many_rows as reference_many_rows
from eet_demo.errors import UnsupportedError
from tests.kernels.harness import (
    ALL_MODES,
    DTYPES,
    ORDERS,
    assert_as_close_as_torch,
    assert_equal,
    launcher,
    rng,
    rounded,
)
from tests.kernels.many_rows import Ragged, noise

EPS = 1e-6
ONE = Ragged((1,), (0,), (0,))
RAGGED = Ragged((5, 1, 11), (0, 7, 3), (2, 0, 1))
EMPTY_BETWEEN = Ragged((2, 0, 0, 3), (1, 4, 0, 0), (1, 0, 3, 2))


def run(
    mode: str,
    ragged: Ragged,
    heads: tuple[int, int, int],
    dtype: DType,
    bias: bool = False,
    norm: NormKind = "none",
    whole: bool = False,
    rotary_dim: int | None = None,
    interleaved: bool = False,
    start: int = 0,
) -> None:
    """One launch, compared. `start` shifts every slot; the cache around what is written must keep its noise."""
    num_heads, num_kv_heads, head_dim = heads
    ragged = Ragged(ragged.lengths, tuple(start + s for s in ragged.starts), ragged.cache_rows)
    device, random = launcher(mode), rng(ragged.rows, head_dim)
    width = (num_heads + 2 * num_kv_heads) * head_dim
    qkv = rounded(random.standard_normal((ragged.rows, width)), dtype)
    linear_bias = rounded(random.standard_normal(width), dtype) if bias else None
    rotary_dim = head_dim if rotary_dim is None else rotary_dim
    exponents = np.arange(0, rotary_dim, 2, dtype=np.float32) / max(rotary_dim, 1)
    frequencies = (10000.0**-exponents).astype(np.float32) if rotary_dim else None
    max_context = int(ragged.positions.max()) + 1
    shape = (max(ragged.cache_rows) + 1, num_kv_heads, max_context, head_dim)
    keys, values = noise(random, shape, dtype), noise(random, shape, dtype)
    vectors, qk_norm = norm_vectors(random, norm, whole, heads)
    qk_weights: Any = [device.upload(v, "float32") for v in vectors]  # and biases, for LayerNorm
    device_norm = None if norm == "none" else replace(QkNorm(norm, whole, *qk_weights), eps=EPS)
    device_keys, device_values = device.upload(keys, dtype), device.upload(values, dtype)
    q_out = qkv_post(
        device,
        device.upload(qkv, dtype),
        device.upload(ragged.positions, "int32"),
        ragged.upload(device),
        dtype=dtype,
        keys=device_keys,
        values=device_values,
        out=device.empty((ragged.rows, num_heads * head_dim), dtype),
        bias=None if linear_bias is None else device.upload(linear_bias, dtype),
        norm=device_norm,
        frequencies=None if frequencies is None else device.upload(frequencies, "float32"),
        interleaved=interleaved,
    )
    context = f"{mode} {dtype} {ragged} heads={heads} norm={norm} whole={whole} rotary_dim={rotary_dim}"

    def by_reference(kind: Any) -> tuple[np.ndarray, ...]:
        rows = qkv.astype(kind)
        return reference_many_rows.qkv_post(
            rows, None if linear_bias is None else linear_bias.astype(kind), heads, ragged.positions, frequencies,
            "interleaved" if interleaved else "half", qk_norm, not whole,
        )  # fmt: skip

    (q, k, v), in_float32 = by_reference(np.float64), by_reference(np.float32)
    by_torch = [torch.from_numpy(part).to(getattr(torch, dtype)).float().numpy() for part in in_float32]
    flat = (ragged.rows, num_heads * head_dim)
    assert_as_close_as_torch(device.download(q_out), q.reshape(flat), by_torch[0].reshape(flat), f"q {context}")
    for name, before, after, part, torch_part in (
        ("keys", keys, device.download(device_keys), k, by_torch[1]),
        ("values", values, device.download(device_values), v, by_torch[2]),
    ):
        expected, written = before.copy(), []
        for own, cache_row, first in reference_many_rows.sequences(*ragged.arrays):
            slots = slice(first, first + own.stop - own.start)
            written.append(after[cache_row][:, slots].transpose(1, 0, 2))
            expected[cache_row][:, slots] = after[cache_row][:, slots]
        assert_as_close_as_torch(np.concatenate(written), part, torch_part, f"{name} {context}")
        if name == "values" and not bias:
            assert_equal(np.concatenate(written), part.astype(np.float32), f"{name} {context}")
        assert_equal(after, expected, f"{name} around what is written, {context}")


def norm_vectors(
    random: np.random.Generator, norm: NormKind, whole: bool, heads: tuple[int, int, int]
) -> tuple[tuple[np.ndarray, ...], Any]:
    """q weight, k weight (and their biases for LayerNorm) and the reference's function of them."""
    if norm == "none":
        return (), None
    sizes = [count * heads[2] if whole else heads[2] for count in heads[:2]]
    vectors = [random.standard_normal(size).astype(np.float32) for size in (*sizes, *sizes)]

    def normalise(x: np.ndarray, is_key: bool) -> np.ndarray:
        return reference.normalise(x, norm, EPS, vectors[is_key], vectors[2 + is_key] if norm == "layer" else None)

    return tuple(vectors if norm == "layer" else vectors[:2]), normalise


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("heads", [(2, 2, 8), (9, 3, 64), (4, 1, 80), (7, 1, 96), (3, 1, 128), (2, 1, 256)])
def test_qkv_post_rotates_and_scatters(dtype: DType, heads: tuple[int, int, int]) -> None:
    run("plain", RAGGED, heads, dtype)


@pytest.mark.parametrize("mode", ORDERS)
@pytest.mark.parametrize("rotary_dim", [0, 20, 64])
@pytest.mark.parametrize("interleaved", [False, True])
def test_qkv_post_turns_part_of_a_head(mode: str, rotary_dim: int, interleaved: bool) -> None:
    run(mode, RAGGED, (3, 1, 64), "float32", rotary_dim=rotary_dim, interleaved=interleaved, bias=True)


@pytest.mark.parametrize("norm", ["rms", "layer"])
@pytest.mark.parametrize("whole", [False, True])
def test_qkv_post_normalises_q_and_k(norm: NormKind, whole: bool) -> None:
    run("shuffled", RAGGED, (4, 2, 80), "float16", norm=norm, whole=whole, bias=True)
    run("plain", ONE, (1, 1, 8), "float32", norm=norm, whole=whole, rotary_dim=0)


@pytest.mark.parametrize("ragged", [ONE, EMPTY_BETWEEN, Ragged((17,), (0,), (0,)), Ragged((33, 96), (5, 0), (0, 1))])
def test_qkv_post_of_any_packing(ragged: Ragged) -> None:
    run("plain", ragged, (3, 1, 64), "float16")


def test_qkv_post_far_into_the_context() -> None:
    run("plain", Ragged((2, 1), (0, 3), (0, 1)), (1, 1, 8), "float32", start=131000)


@pytest.mark.parametrize("mode", ALL_MODES)
def test_qkv_post_is_clean_in_every_mode(mode: str) -> None:
    run(mode, RAGGED, (4, 1, 96), "float16", bias=True, norm="rms", whole=True)


def test_qkv_post_is_what_the_op_does_after_its_product() -> None:
    random, heads = rng(4), (4, 2, 16)
    x, weight, bias = random.standard_normal((5, 24)), random.standard_normal((128, 24)), random.standard_normal(128)
    positions, frequencies = np.arange(3, 8), np.array([1.0, 0.1, 0.01, 0.5])
    op = reference.norm_qkv(x, weight, bias, heads, positions, frequencies, "interleaved")
    split = reference_many_rows.qkv_post(x @ weight.T, bias, heads, positions, frequencies, "interleaved")
    for ours, theirs in zip(split, op, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-12)


def test_qkv_post_refuses_heads_it_cannot_move() -> None:
    with pytest.raises(UnsupportedError, match="head_dim 111"):
        run("plain", ONE, (1, 1, 111), "float32", rotary_dim=0)
    with pytest.raises(UnsupportedError, match="evenly"):
        run("plain", ONE, (3, 2, 8), "float32")
