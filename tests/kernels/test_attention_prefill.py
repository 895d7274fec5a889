"""attention_prefill.cu against the reference: head sizes, GQA, ragged rows, passes, every option, every mode."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from eet_demo.engine.executors.cuda.arrays import DType
from eet_demo.engine.executors.cuda.launchers.attention_prefill import attention_prefill, instance
from eet_demo.engine.executors.cuda.launchers.qkv_post import qkv_post
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
from tests.kernels.many_rows import Ragged, noise, reserve

HALVES: tuple[DType, ...] = ("float16", "bfloat16")
RAGGED = Ragged((70, 1, 17), (0, 5, 33), (2, 0, 1))
"""One tile and a bit; length 1; a second pass: 33 slots filled before."""


def run(
    mode: str,
    ragged: Ragged,
    heads: tuple[int, int, int],
    dtype: DType,
    window: int | None = None,
    cap: float | None = None,
    alibi: bool = False,
    scale: float | None = None,
    room: int = 9,
    longest: int | None = None,
) -> np.ndarray:
    """One launch, compared; slots behind the rows, and those of nobody, are noise and NaN."""
    num_heads, num_kv_heads, head_dim = heads
    device, random = launcher(mode), rng(ragged.rows, head_dim)
    scale = head_dim**-0.5 if scale is None else scale
    max_context = int(ragged.positions.max()) + 1 + room
    shape = (max(ragged.cache_rows) + 1, num_kv_heads, max_context, head_dim)
    keys, values = noise(random, shape, dtype), noise(random, shape, dtype)
    for length, start, cache_row in zip(ragged.lengths, ragged.starts, ragged.cache_rows, strict=True):
        filled = (num_kv_heads, start + length, head_dim)
        keys[cache_row][:, : filled[1]] = rounded(random.standard_normal(filled), dtype)
        values[cache_row][:, : filled[1]] = rounded(random.standard_normal(filled) + 1, dtype)
    q = rounded(2 * random.standard_normal((ragged.rows, num_heads, head_dim)), dtype)
    slopes = (2.0 ** -(1.0 + np.arange(num_heads))).astype(np.float32) if alibi else None
    flat = (ragged.rows, num_heads * head_dim)
    out = attention_prefill(
        device,
        device.upload(q.reshape(flat), dtype),
        device.upload(keys, dtype),
        device.upload(values, dtype),
        ragged.upload(device),
        dtype=dtype,
        longest=longest or max(ragged.lengths),
        scale=scale,
        out=device.empty(flat, dtype),
        window=window,
        soft_cap=cap,
        slopes=None if slopes is None else device.upload(slopes, "float32"),
    )
    actual = device.download(out)
    context = f"{mode} {dtype} {ragged} heads={heads} window={window} cap={cap} alibi={alibi}"
    wide_q, wide_keys, wide_values = (array.astype(np.float64) for array in (q, keys, values))
    expected = reference_many_rows.attention_prefill(
        wide_q, wide_keys, wide_values, *ragged.arrays, scale, window, cap, slopes
    )
    if dtype == "float32":
        assert_float32_close(actual, expected, context)
    else:
        by_torch = attention_of_torch(q, keys, values, ragged, scale, window, cap, slopes, dtype)
        assert_as_close_as_torch(actual, expected, by_torch, context)
    return actual


def attention_of_torch(
    q: np.ndarray, keys: np.ndarray, values: np.ndarray, ragged: Ragged, scale: float, window: int | None,
    cap: float | None, slopes: np.ndarray | None, dtype: DType,
) -> np.ndarray:  # fmt: skip
    """torch's attention in `dtype`: scaled_dot_product_attention, or its two products round a soft cap."""
    kind, group = getattr(torch, dtype), q.shape[1] // keys.shape[1]
    outputs = []
    for own, cache_row, start in reference_many_rows.sequences(*ragged.arrays):
        slots = start + own.stop - own.start
        x = torch.from_numpy(q[own]).to(kind).transpose(0, 1)
        k, v = (
            torch.from_numpy(cache[cache_row][:, :slots]).to(kind).repeat_interleave(group, 0)
            for cache in (keys, values)
        )
        distance = torch.arange(start, slots)[:, None] - torch.arange(slots)
        mask = torch.zeros(distance.shape) if slopes is None else -torch.from_numpy(slopes)[:, None, None] * distance
        mask = mask.masked_fill((distance < 0) | (distance >= (window or slots)), -torch.inf).to(kind)
        if cap is None:
            mask = mask.expand(len(x), -1, -1)[None]
            y = torch.nn.functional.scaled_dot_product_attention(x[None], k[None], v[None], mask, scale=scale)[0]
        else:
            y = torch.softmax(cap * torch.tanh(x @ k.mT * scale / cap) + mask, -1) @ v
        outputs.append(y.transpose(0, 1).reshape(own.stop - own.start, q[0].size).float().numpy())
    return np.concatenate(outputs)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "heads", [(2, 2, 8), (6, 2, 64), (4, 1, 80), (7, 1, 96), (2, 2, 128), (1, 1, 136), (2, 1, 256)]
)
def test_attention_prefill_of_every_head(dtype: DType, heads: tuple[int, int, int]) -> None:
    run("plain", RAGGED, heads, dtype)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize(
    "options",
    [{"window": 1}, {"window": 20}, {"window": 64}, {"cap": 3.0}, {"alibi": True}, {"scale": 0.5},
     {"window": 33, "cap": 5.0, "alibi": True, "scale": 0.2}],
)  # fmt: skip
def test_attention_prefill_options(dtype: DType, options: dict[str, float | bool]) -> None:
    run("plain", RAGGED, (3, 1, 64), dtype, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("rows", [1, 17, 33, 64, 65, 129])
def test_attention_prefill_of_any_number_of_rows(dtype: DType, rows: int) -> None:
    run("plain", Ragged((rows,), (0,), (0,)), (1, 1, 64), dtype, room=0)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_attention_prefill_in_passes_equals_one_pass(dtype: DType) -> None:
    """The second half of a prompt, its first half in the cache: the same rows, bit for bit where tiles agree."""
    device, random, heads = launcher("plain"), rng(9), (2, 1, 64)
    q = device.upload(random.standard_normal((128, 128)), dtype)
    keys, values = (device.upload(random.standard_normal((1, 1, 128, 64)), dtype) for _ in range(2))
    results = []
    for rows, start in ((slice(0, 128), 0), (slice(64, 128), 64)):
        ragged = Ragged((rows.stop - rows.start,), (start,), (0,))
        out = device.empty((ragged.rows, 128), dtype)
        attention_prefill(
            device, q[rows], keys, values, ragged.upload(device), dtype=dtype, longest=ragged.rows,
            scale=heads[2] ** -0.5, out=out,
        )  # fmt: skip
        results.append(device.download(out))
    assert_equal(results[1], results[0][64:], dtype)


@pytest.mark.parametrize("mode", ORDERS)
@pytest.mark.parametrize("dtype", HALVES)
def test_attention_prefill_after_a_long_context(mode: str, dtype: DType) -> None:
    """300 and 64 slots before, an empty sequence between; a window far from the first slot."""
    run(mode, Ragged((20, 0, 65), (300, 7, 64), (1, 0, 2)), (2, 1, 64), dtype)
    run(mode, Ragged((3,), (300,), (0,)), (1, 1, 64), dtype, window=70)


@pytest.mark.parametrize("mode", ALL_MODES)
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_attention_prefill_is_clean_in_every_mode(mode: str, dtype: DType) -> None:
    run(mode, Ragged((33, 2), (40, 0), (1, 0)), (2, 1, 80), dtype, window=50)


def test_attention_prefill_offsets_are_64_bits_wide() -> None:
    """A cache of more than 2^31 values; qkv_post brings k and v into its last row, attention reads them there."""
    device, heads, rows = launcher("plain"), (3, 1, 128), Ragged((20,), (0,), (139,))
    (keys, host_keys), (values, host_values) = (reserve((140, 1, 131072, 128)) for _ in range(2))
    qkv = rng(1).standard_normal((20, 640)).astype(np.float16)
    positions, ragged = device.upload(rows.positions, "int32"), rows.upload(device)
    q, out = (device.empty((20, 384), "float16") for _ in range(2))
    qkv_post(device, device.upload(qkv, "float16"), positions, ragged, dtype="float16", keys=keys, values=values, out=q)
    assert_equal(host_keys[139, 0, :20], qkv[:, 384:512], "keys")
    assert_equal(host_values[139, 0, :20], qkv[:, 512:], "values")
    attention_prefill(device, q, keys, values, ragged, dtype="float16", longest=20, scale=0.1, out=out)
    own = (np.array([0, 20]), np.array([0]), np.array([0]))
    wide = qkv.astype(np.float64)
    k, v = (wide[None, None, :, start : start + 128] for start in (384, 512))
    expected = reference_many_rows.attention_prefill(wide[:, :384].reshape(20, *heads[::2]), k, v, *own, 0.1)
    assert np.abs(device.download(out) - expected).max() < 2e-3


def test_attention_prefill_ignores_blocks_past_a_sequence() -> None:
    """A grid for longer runs of rows than there are (a captured graph's) changes nothing."""
    exact, wide = (run("plain", Ragged((9, 65), (0, 0), (0, 1)), (1, 1, 64), "float16", longest=n) for n in (65, 74))
    assert_equal(wide, exact, "longest")


def test_attention_prefill_survives_scores_of_any_size() -> None:
    run("plain", RAGGED, (2, 1, 64), "float16", scale=30.0)


def test_attention_prefill_needs_no_opt_in_up_to_head_dim_128() -> None:
    for dtype in DTYPES:
        assert all(instance(dtype, head_dim)[1].shared_bytes <= 48 * 1024 for head_dim in range(8, 129, 8))
        assert all(instance(dtype, head_dim)[1].shared_bytes <= 64 * 1024 for head_dim in range(136, 257, 8)), dtype


def test_attention_prefill_refuses_what_it_cannot_do() -> None:
    one = Ragged((1,), (0,), (0,))
    with pytest.raises(UnsupportedError, match="head_dim 111"):
        run("plain", one, (1, 1, 111), "float32")
    with pytest.raises(UnsupportedError, match="head_dim 264"):
        run("plain", one, (1, 1, 264), "float32")
    with pytest.raises(UnsupportedError, match="evenly"):
        run("plain", one, (3, 2, 8), "float32")
    with pytest.raises(UnsupportedError, match="a window of 0 slots"):
        run("plain", one, (1, 1, 8), "float32", window=0)
    device = launcher("plain")
    q, cache = device.empty((1, 8), "bfloat16"), device.empty((1, 1, 1, 8), "bfloat16")
    with pytest.raises(UnsupportedError, match="sm_75"):
        attention_prefill(
            device, q, cache, cache, one.upload(device), dtype="bfloat16", longest=1, scale=1.0, out=q,
            compute_capability=75,
        )  # fmt: skip
