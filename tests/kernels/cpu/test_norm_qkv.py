"""norm_qkv: q in its buffer, keys in tiles and values in rows of the cache, rotary pairs side by side."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from eet_demo.engine.executors import Step
from eet_demo.engine.executors.reference import kernels as reference
from eet_demo.engine.spec import ModelSpec, RotaryScaling
from tests.kernels.cpu_harness import THREADS, Array, Rig, assert_accurate, gpt2, llama, rig, step_of

SPECS: dict[str, ModelSpec] = {
    "llama": llama(),
    "llama-9-on-3-of-64": llama(576, 9, 3, 64),
    "llama-head-dim-80": llama(80, 4, 2, 80),
    "llama-head-dim-8": llama(56, 7, 1, 8),
    "llama-14-on-2": llama(112, 14, 2, 8, qkv_bias=True),
    "llama-partial-rotary": llama(64, 4, 2, 24, rotary_dim=8),
    "llama-interleaved-pairs": llama(64, 4, 2, 24, rotary_dim=16, rope_pairs="interleaved"),
    "llama-scaled": llama(rope_scaling=RotaryScaling("llama3", 8.0, 1.0, 4.0, 64), rope_theta=500000.0),
    "norm-of-each-head": llama(64, 4, 2, 24, family="qwen3", qk_norm="head"),
    "norm-of-each-head-its-own": gpt2(
        family="stablelm", positions=("rotary",), rotary_dim=8, mlp="gated", qk_norm="heads"
    ),
    "norm-of-all-heads-none-before": llama(80, 4, 2, 24, family="olmo2", qk_norm="full", norm_placement="post"),
    "norm-of-each-head-unturned": llama(64, 4, 2, 24, family="qwen3", qk_norm="head", positions=("none",)),
    "gpt2": gpt2(),
    "gpt2-25-heads": gpt2(200, 25),
}


def expected(loaded: Rig, x: Array, step: Step, dtype: Any) -> tuple[Array, Array, Array]:
    spec, op = loaded.spec, loaded.op("layers.0.norm_qkv")
    normed = x.astype(dtype)
    if op.norm is not None:
        bias = loaded.weight(op.norm.bias, dtype)
        normed = reference.normalise(normed, op.norm.kind, op.norm.eps, loaded.weight(op.norm.weight, dtype), bias)

    def qk_norm(part: Array, is_key: bool) -> Array:
        norm = op.k_norm if is_key else op.q_norm
        weight = loaded.weight(norm.weight, dtype)
        weight = weight.reshape(-1, spec.head_dim) if spec.qk_norm == "heads" else weight
        return reference.normalise(part, norm.kind, norm.eps, weight, None)

    return reference.norm_qkv(
        normed,
        loaded.weight(op.qkv.weight, dtype),
        loaded.weight(op.qkv.bias, dtype),
        (spec.num_heads, spec.num_kv_heads, spec.head_dim),
        step.positions,
        spec.rotary_frequencies() if spec.positions[0] == "rotary" else None,
        spec.rope_pairs,
        None if spec.qk_norm == "none" else qk_norm,
        spec.qk_norm != "full",
    )


def side_by_side(spec: ModelSpec) -> Array:
    """Element of a head that stands at each place of the head in panels."""
    if spec.positions[0] != "rotary" or spec.rope_pairs == "interleaved":
        return np.arange(spec.head_dim)
    half = spec.rotary_dim // 2
    pairs = np.stack([np.arange(half), np.arange(half) + half], axis=1).ravel()
    return np.concatenate([pairs, np.arange(2 * half, spec.head_dim)])


def check(loaded: Rig, step: Step, **parameters: Any) -> Array:
    """Runs the op on random rows and compares q and every row's cache slot; returns q."""
    spec = loaded.spec
    x = np.random.default_rng(step.rows).normal(0, 3, (step.rows, spec.hidden_size)).astype(np.float32)
    loaded.put("residual", x)
    loaded.run(loaded.op("layers.0.norm_qkv"), step)
    exact, numpy32 = expected(loaded, x, step, np.float64), expected(loaded, x, step, np.float32)
    order = side_by_side(spec)
    q = loaded.get("q.0", (step.rows, spec.num_heads, spec.head_dim))
    terms = 4 * spec.hidden_size**0.5
    assert_accurate(q, exact[0][..., order], numpy32[0][..., order], terms, part="q", **parameters)
    keys, values = np.empty_like(numpy32[1]), np.empty_like(numpy32[2])
    for b in range(step.batch):
        rows = slice(step.row_starts[b], step.row_starts[b + 1])
        for head in range(spec.num_kv_heads):
            flat, value_rows = loaded.cache(int(step.cache_rows[b]), head)
            stored = np.concatenate([tile.T for _, tile in loaded.key_tiles(flat)])
            keys[rows, head] = stored[step.positions[rows]]
            values[rows, head] = value_rows[step.positions[rows]]
    assert_accurate(keys, exact[1][..., order], numpy32[1][..., order], terms, part="keys", **parameters)
    assert_accurate(values, exact[2], numpy32[2], terms, part="values", **parameters)
    return q


@pytest.mark.parametrize("name", list(SPECS))
@pytest.mark.parametrize("rows", [[1], [7], [1, 30, 2]])
def test_norm_qkv_against_reference(name: str, rows: list[int]) -> None:
    with rig(SPECS[name], 2, context=90) as loaded:
        check(
            loaded, step_of(rows, cached=[5] * len(rows), cache_rows=range(3, 3 - len(rows), -1)), name=name, rows=rows
        )


@pytest.mark.parametrize("name", ["llama-9-on-3-of-64", "norm-of-each-head"])
@pytest.mark.parametrize("rows", [2, 3, 12, 13, 16, 17, 200])
def test_norm_qkv_same_bits_for_any_thread_count(rows: int, name: str) -> None:
    results = []
    for threads in THREADS:
        with rig(SPECS[name], threads) as loaded:
            results.append(check(loaded, step_of([rows]), rows=rows, threads=threads))
    assert all(np.array_equal(results[0], other) for other in results[1:])


@pytest.mark.parametrize("context", [17, 24, 31, 33])
def test_norm_qkv_fills_the_last_narrow_tile(context: int) -> None:
    """The cache is no multiple of 16 slots; the last slot of the last head is written, and nothing past it."""
    with rig(llama(), 2, batch=1, context=context) as loaded:
        check(loaded, step_of([context]), context=context)


def test_norm_qkv_far_position_keeps_its_angle() -> None:
    """At position 4,000 an angle reduced in plain float32 would be wrong in the fourth digit."""
    with rig(llama(rope_theta=100.0), 1, batch=1, context=4096) as loaded:
        check(loaded, step_of([3], cached=[4090]))


def test_norm_qkv_leaves_other_slots_alone() -> None:
    with rig(llama(), 2, batch=2, context=40) as loaded:
        check(loaded, step_of([2], cached=[16], cache_rows=[1]))
        keys, values = loaded.cache(0, 0)
        assert np.isnan(keys).all()
        assert np.isnan(values).all()
        flat, values = loaded.cache(1, 1)
        filled = np.concatenate([tile.T for _, tile in loaded.key_tiles(flat)])
        for rows in (filled, values):
            assert np.isfinite(rows[16:18]).all()
            assert np.isnan(np.delete(rows, [16, 17], axis=0)).all()
