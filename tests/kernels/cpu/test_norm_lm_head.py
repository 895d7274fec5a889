"""norm_lm_head against the reference: chosen rows, vocabularies that end inside a panel, scale and soft cap."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from eet_demo.engine.executors.reference import kernels as reference
from tests.kernels.cpu_harness import THREADS, Array, Rig, assert_accurate, gpt2, llama, rig, step_of

SPECS = {
    "llama-tied": llama(576, 9, 3, 64),
    "llama-untied": llama(tied_head=False),
    "gpt2-odd-vocabulary": gpt2(768, 12, vocab_size=1009),
    "scaled-and-capped": llama(logit_scale=3.0, logit_soft_cap=5.0),
    "smaller-than-a-panel": llama(vocab_size=7),
}


def check(loaded: Rig, rows: int, wanted: list[int], **parameters: Any) -> Array:
    op, spec = loaded.op("norm_lm_head"), loaded.spec
    x = np.random.default_rng(rows).normal(0, 1, (rows, spec.hidden_size)).astype(np.float32)
    loaded.put("residual", x)
    loaded.run(op, step_of([rows], wanted=wanted, vocab_size=spec.vocab_size))
    got = loaded.get("logits", (len(wanted), spec.vocab_size))
    results, terms = [], 0.0
    for dtype in (np.float64, np.float32):
        weights = loaded.weight(op.norm.weight, dtype), loaded.weight(op.norm.bias, dtype)
        normed = reference.normalise(x[wanted].astype(dtype), op.norm.kind, op.norm.eps, *weights)
        weight = loaded.weight(op.head.weight, dtype)
        results.append(reference.norm_lm_head(normed, weight, None, op.scale, op.soft_cap))
        terms = op.scale * float((np.abs(normed) @ np.abs(weight).T).max())
    assert_accurate(got, results[0], results[1], terms, rows=rows, wanted=wanted, **parameters)
    return got


@pytest.mark.parametrize("name", list(SPECS))
@pytest.mark.parametrize(("rows", "wanted"), [(1, [0]), (40, [39]), (40, [7, 3, 30]), (16, list(range(16)))])
def test_norm_lm_head_against_reference(name: str, rows: int, wanted: list[int]) -> None:
    with rig(SPECS[name], 2) as loaded:
        check(loaded, rows, wanted, name=name)


def test_norm_lm_head_same_bits_for_any_thread_count() -> None:
    results = []
    for threads in THREADS:
        with rig(SPECS["gpt2-odd-vocabulary"], threads) as loaded:
            results.append(check(loaded, 20, [19, 0, 4], threads=threads))
    assert all(np.array_equal(results[0], other) for other in results[1:])


def test_head_again_equals_the_step() -> None:
    """`head` after a pass gives the very logits the pass itself would have given."""
    with rig(SPECS["llama-tied"], 2) as loaded:
        logits = check(loaded, 20, [3, 19])
        assert np.array_equal(loaded.executor.head(np.array([3, 19], np.int32)), logits)
