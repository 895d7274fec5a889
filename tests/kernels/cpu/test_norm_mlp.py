"""norm_mlp against the reference: every activation, gated and plain, part sizes that end inside a panel."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from eet_demo.engine.executors.reference import kernels as reference
from tests.kernels.cpu_harness import THREADS, Array, Rig, assert_accurate, gpt2, llama, rig, step_of

ACTIVATIONS = ("gelu_tanh", "gelu_erf", "silu", "relu")
SPECS = {
    "gated-64": llama(intermediate_size=176),
    "gated-half-panel": llama(80, 4, 2, 24, intermediate_size=88, mlp_bias=True),
    "gated-576": llama(576, 9, 3, 64, intermediate_size=1536),
    "plain-768": gpt2(768, 12, intermediate_size=3072),
    "plain-half-panel": gpt2(80, 10, intermediate_size=72),
} | {
    f"{kind}-{name}": make(activation=name)
    for name in ACTIVATIONS
    for kind, make in (("gated", llama), ("plain", gpt2))
}


def check(loaded: Rig, rows: int, spread: float = 1.0, **parameters: Any) -> Array:
    op = loaded.op("layers.0.norm_mlp")
    x = np.random.default_rng(rows).normal(0, spread, (rows, loaded.spec.hidden_size)).astype(np.float32)
    loaded.put("residual", x)
    loaded.run(op, step_of([rows]))
    got = loaded.get("hidden.0", (rows, loaded.spec.intermediate_size))
    results, terms = [], 0.0
    for dtype in (np.float64, np.float32):
        norm = op.norm
        weights = loaded.weight(norm.weight, dtype), loaded.weight(norm.bias, dtype)
        normed = reference.normalise(x.astype(dtype), norm.kind, norm.eps, *weights)
        weight, bias = loaded.weight(op.up.weight, dtype), loaded.weight(op.up.bias, dtype)
        results.append(reference.norm_mlp(normed, weight, bias, op.gated, op.activation))
        terms = float((np.abs(normed) @ np.abs(weight).T).max())
    slope = np.abs(results[0]).max() if op.gated else 1.0  # an error of the gate is multiplied by up, and the reverse
    assert_accurate(got, results[0], results[1], terms * max(1.0, slope), rows=rows, **parameters)
    return got


@pytest.mark.parametrize("name", list(SPECS))
@pytest.mark.parametrize("rows", [1, 3, 17])
def test_norm_mlp_against_reference(name: str, rows: int) -> None:
    with rig(SPECS[name], 2, rows=32) as loaded:
        check(loaded, rows, name=name)


@pytest.mark.parametrize("rows", [2, 7, 16, 200])
def test_norm_mlp_same_bits_for_any_thread_count(rows: int) -> None:
    results = []
    for threads in THREADS:
        with rig(SPECS["gated-576"], threads) as loaded:
            results.append(check(loaded, rows, threads=threads))
    assert all(np.array_equal(results[0], other) for other in results[1:])


@pytest.mark.parametrize("scale", [1e-20, 1e-3, 1e15])
def test_norm_mlp_of_tiny_and_huge_rows(scale: float) -> None:
    """The norm brings any row to size 1; eps decides for tiny ones."""
    with rig(SPECS["gated-64"], 1) as loaded:
        check(loaded, 3, spread=scale, scale=scale)
