"""norm_add against the reference: both norms, a scale, odd widths, and the projection that leaves its product to it."""

from __future__ import annotations

import numpy as np
import pytest

from eet_demo.engine.executors.reference import kernels as reference
from tests.kernels.cpu_harness import THREADS, Array, Rig, assert_accurate, llama, rig, step_of

SPECS = {
    "rms-64": llama(family="olmo2", norm_placement="post"),
    "rms-80-scaled": llama(80, 4, 2, 24, family="gemma2", norm_placement="both", residual_scale=0.25),
    "rms-576": llama(576, 9, 3, 64, family="olmo2", norm_placement="post"),
}


def check(loaded: Rig, source: str, rows: int) -> Array:
    op = loaded.op(f"layers.0.norm_add.{source}")
    rng = np.random.default_rng(rows)
    x, residual = rng.normal(0, 3, (2, rows, loaded.spec.hidden_size)).astype(np.float32)
    loaded.put(op.reads[0], x)
    loaded.put("residual", residual)
    loaded.run(op, step_of([rows]))
    got = loaded.get("residual", residual.shape)
    exact, numpy32 = (
        reference.norm_add(
            residual.astype(dtype),
            reference.normalise(x.astype(dtype), op.norm.kind, op.norm.eps, loaded.weight(op.norm.weight, dtype), None),
            op.scale,
        )
        for dtype in (np.float64, np.float32)
    )
    assert_accurate(got, exact, numpy32, 4.0, source=source, rows=rows)
    return got


@pytest.mark.parametrize("name", list(SPECS))
@pytest.mark.parametrize("rows", [1, 3, 16, 17])
def test_norm_add_against_reference(name: str, rows: int) -> None:
    with rig(SPECS[name], 2, rows=32) as loaded:
        for source in ("attention", "hidden"):
            check(loaded, source, rows)


@pytest.mark.parametrize("rows", [1, 40])
def test_norm_add_same_bits_for_any_thread_count(rows: int) -> None:
    results = []
    for threads in THREADS:
        with rig(SPECS["rms-576"], threads) as loaded:
            results.append(check(loaded, "hidden", rows))
    assert all(np.array_equal(results[0], other) for other in results[1:])


@pytest.mark.parametrize("rows", [1, 17])
def test_a_projection_before_it_overwrites_its_target(rows: int) -> None:
    """Nothing is added to what the buffer held; a second run leaves the same bits."""
    with rig(SPECS["rms-80-scaled"], 2, rows=32) as loaded:
        op = loaded.op("layers.0.linear_residual.hidden")
        x = np.random.default_rng(0).normal(0, 1, (rows, op.out.in_features)).astype(np.float32)
        loaded.put("hidden.0", x)
        found = []
        for _ in range(2):
            loaded.run(op, step_of([rows]))
            found.append(loaded.get(op.writes[0], (rows, op.out.out_features)))
        exact, numpy32 = (
            reference.linear(x.astype(dtype), loaded.weight(op.out.weight, dtype), None)
            for dtype in (np.float64, np.float32)
        )
        terms = np.abs(x) @ np.abs(loaded.weight(op.out.weight, np.float32)).T
        assert_accurate(found[0], exact, numpy32, terms, rows=rows)
        assert np.array_equal(found[0], found[1])
