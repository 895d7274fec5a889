"""attention: decode in chunks, prefill in blocks, both against the reference over a cache with a poisoned tail."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from eet_demo.engine.executors import Step
from eet_demo.engine.executors.reference import kernels as reference
from eet_demo.engine.spec import ModelSpec
from tests.kernels.cpu_harness import THREADS, Array, Rig, assert_accurate, llama, rig, step_of

SPECS: dict[str, ModelSpec] = {
    "4-on-2-of-16": llama(),
    "9-on-3-of-64": llama(576, 9, 3, 64),
    "25-of-64": llama(64, 25, 25, 64),
    "14-on-2-of-80": llama(112, 14, 2, 80),
    "7-on-1-of-8": llama(56, 7, 1, 8),
    "30-on-1-of-24": llama(64, 30, 1, 24),
    "2-of-256": llama(64, 2, 2, 256),
    "window": llama(windows=(20,)),
    "window-of-one": llama(windows=(1,)),
    "alibi": llama(positions=("alibi",), rotary_dim=0),
    "alibi-6-heads": llama(64, 6, 6, 16, positions=("alibi",), rotary_dim=0, windows=(50,)),
    "soft-cap": llama(attention_soft_cap=2.0, attention_scale=0.5),
}


def fill(loaded: Rig, step: Step, seed: int) -> list[tuple[Array, Array]]:
    """Random keys and values in every slot a row may see, (num_kv_heads, slots, head_dim) each; the rest stays NaN."""
    rng = np.random.default_rng(seed)
    sequences = []
    for b, row in enumerate(step.cache_rows):
        slots = int(step.positions[step.row_starts[b + 1] - 1]) + 1
        keys, values = rng.normal(0, 1, (2, loaded.spec.num_kv_heads, slots, loaded.spec.head_dim)).astype(np.float32)
        for head in range(loaded.spec.num_kv_heads):
            flat, rows = loaded.cache(int(row), head)
            rows[:slots] = values[head]
            for place, tile in loaded.key_tiles(flat):
                filled = keys[head][place]
                tile[:, : len(filled)] = filled.T
        sequences.append((keys, values))
    return sequences


def expected(loaded: Rig, q: Array, step: Step, sequences: list[tuple[Array, Array]], dtype: Any) -> Array:
    spec, parts = loaded.spec, []
    for b, (keys, values) in enumerate(sequences):
        rows = slice(step.row_starts[b], step.row_starts[b + 1])
        wide_q, wide_keys, wide_values = (array.astype(dtype) for array in (q[rows], keys, values))
        slopes = spec.alibi_slopes() if spec.positions[0] == "alibi" else None
        options = (spec.scale, spec.window(0), spec.attention_soft_cap, slopes)
        parts.append(reference.attention(wide_q, wide_keys, wide_values, step.positions[rows], *options))
    return np.concatenate(parts)


def check(loaded: Rig, step: Step, **parameters: Any) -> Array:
    spec = loaded.spec
    sequences = fill(loaded, step, seed=step.rows)
    q = np.random.default_rng(1).normal(0, 2, (step.rows, spec.num_heads, spec.head_dim)).astype(np.float32)
    loaded.put("q.0", q)
    loaded.run(loaded.op("layers.0.attention"), step)
    got = loaded.get("attention.0", (step.rows, spec.q_size))
    exact, numpy32 = (expected(loaded, q, step, sequences, dtype) for dtype in (np.float64, np.float32))
    # an error of a score, a sum of head_dim terms of about 2, is an error of its weight
    assert_accurate(got, exact, numpy32, 4 * spec.head_dim * spec.scale, **parameters)
    return got


@pytest.mark.parametrize("name", list(SPECS))
@pytest.mark.parametrize(
    ("rows", "cached"),
    [([1], [0]), ([1], [63]), ([1, 1, 1], [64, 5, 200]), ([40], [0]), ([2], [250]), ([13, 1, 150], [7, 90, 100])],
)
def test_attention_against_reference(name: str, rows: list[int], cached: list[int]) -> None:
    """Decode, prefill, a later pass, and a ragged mixture of all three."""
    with rig(SPECS[name], 2) as loaded:
        check(loaded, step_of(rows, cached), name=name, rows=rows, cached=cached)


@pytest.mark.parametrize("context", [1, 15, 65, 100])
def test_attention_to_the_last_slot_of_an_odd_cache(context: int) -> None:
    """The last tile of keys is narrower than 16 slots; the row of another sequence must not leak in."""
    with rig(SPECS["4-on-2-of-16"], 2, batch=2, context=context) as loaded:
        check(loaded, step_of([1, context], [context - 1, 0]), context=context)


@pytest.mark.parametrize(("rows", "cached"), [([1, 1], [1000, 130]), ([60, 1], [300, 7])])
def test_attention_same_bits_for_any_thread_count(rows: list[int], cached: list[int]) -> None:
    results = []
    for threads in THREADS:
        with rig(SPECS["9-on-3-of-64"], threads, context=1024) as loaded:
            results.append(check(loaded, step_of(rows, cached), threads=threads))
    assert all(np.array_equal(results[0], other) for other in results[1:])


def test_attention_of_large_scores_stays_finite() -> None:
    """Scores beyond float32's range of exp: the running maximum keeps every exponent at or below 0."""
    with rig(llama(attention_scale=100.0), 2) as loaded:
        assert np.isfinite(check(loaded, step_of([1, 20], [100, 0]))).all()
