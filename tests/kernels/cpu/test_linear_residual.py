"""linear_residual against the reference: odd widths, odd row counts, biases, a scale."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from eet_demo.engine.executors.reference import kernels as reference
from tests.kernels.cpu_harness import THREADS, Array, Rig, assert_accurate, gpt2, llama, rig, step_of

SPECS = {
    "llama-64": llama(),
    "llama-80": llama(80, 4, 2, 24, intermediate_size=88),
    "llama-576": llama(576, 9, 3, 64, intermediate_size=1536),
    "gpt2-768": gpt2(768, 12, residual_scale=0.25),
    "gpt2-1600": gpt2(1600, 25, intermediate_size=1000),
}


def check(loaded: Rig, source: str, rows: int, **parameters: Any) -> Array:
    op = loaded.op(f"layers.0.linear_residual.{source}")
    rng = np.random.default_rng(rows)
    x = rng.normal(0, 1, (rows, op.out.in_features)).astype(np.float32)
    residual = rng.normal(0, 1, (rows, op.out.out_features)).astype(np.float32)
    loaded.put(f"{source}.0", x)
    loaded.put("residual", residual)
    loaded.run(op, step_of([rows]))
    got = loaded.get("residual", residual.shape)
    exact, numpy32 = (
        reference.linear_residual(
            residual.astype(dtype),
            x.astype(dtype),
            loaded.weight(op.out.weight, dtype),
            loaded.weight(op.out.bias, dtype),
            op.scale,
        )
        for dtype in (np.float64, np.float32)
    )
    terms = np.abs(x) @ np.abs(loaded.weight(op.out.weight, np.float32)).T
    assert_accurate(got, exact, numpy32, terms, source=source, rows=rows, **parameters)
    return got


@pytest.mark.parametrize("name", list(SPECS))
@pytest.mark.parametrize("rows", [1, 2, 3, 7, 16, 17])
def test_linear_residual_against_reference(name: str, rows: int) -> None:
    with rig(SPECS[name], 2, rows=32) as loaded:
        for source in ("attention", "hidden"):
            check(loaded, source, rows, name=name)


@pytest.mark.parametrize("rows", [1, 5, 12, 200])
def test_linear_residual_same_bits_for_any_thread_count(rows: int) -> None:
    results = []
    for threads in THREADS:
        with rig(SPECS["llama-576"], threads) as loaded:
            results.append(check(loaded, "hidden", rows, threads=threads))
    assert all(np.array_equal(results[0], other) for other in results[1:])


def test_linear_residual_same_bits_for_any_row_count() -> None:
    """A row's result does not depend on the rows beside it: decode equals prefill, a batch equals its rows alone."""
    with rig(SPECS["llama-576"], 2) as loaded:
        op, rng = loaded.op("layers.0.linear_residual.hidden"), np.random.default_rng(0)
        x, residual = rng.normal(size=(40, 1536)).astype(np.float32), rng.normal(size=(40, 576)).astype(np.float32)
        alone = []
        for rows in ([slice(i, i + 1) for i in range(40)], [slice(0, 40)]):
            parts = []
            for some in rows:
                loaded.put("hidden.0", x[some])
                loaded.put("residual", residual[some])
                loaded.run(op, step_of([some.stop - some.start]))
                parts.append(loaded.get("residual", residual[some].shape))
            alone.append(np.concatenate(parts))
        assert np.array_equal(alone[0], alone[1])
