"""embed: a copy (a scale of 4 rounds nothing), so exact but for a norm; the token table is the head's panels."""

from __future__ import annotations

import numpy as np
import pytest

from eet_demo.engine.executors.reference import kernels as reference
from tests.kernels.cpu_harness import THREADS, assert_accurate, gpt2, llama, rig, step_of


@pytest.mark.parametrize("rows", [1, 3, 17, 200])
@pytest.mark.parametrize("hidden", [64, 80, 576])
@pytest.mark.parametrize("tied", [True, False])
def test_embed_learned_positions_exact(rows: int, hidden: int, tied: bool) -> None:
    spec = gpt2(hidden, hidden // 8, tied_head=tied, embedding_scale=4.0)
    for threads in THREADS:
        with rig(spec, threads) as loaded:
            step, op = step_of([rows]), loaded.op("embed")
            loaded.run(op, step)
            tables = loaded.weight("embed.tokens", np.float32), loaded.weight("embed.positions", np.float32)
            expected = reference.embed(step.token_ids, step.positions, *tables, 4.0)
            assert np.array_equal(loaded.get("residual", expected.shape), expected), f"rows {rows} threads {threads}"


def test_embed_without_positions_exact() -> None:
    """Later slots of a second sequence take their positions, not their row numbers: rotary models add none here."""
    with rig(llama(), 2) as loaded:
        step = step_of([5, 1], cached=[3, 100])
        loaded.run(loaded.op("embed"), step)
        expected = loaded.weight("embed.tokens", np.float32)[step.token_ids]
        assert np.array_equal(loaded.get("residual", expected.shape), expected)


def test_embed_positions_of_a_later_pass_exact() -> None:
    with rig(gpt2(), 2) as loaded:
        step = step_of([5, 1], cached=[3, 100])
        loaded.run(loaded.op("embed"), step)
        table = loaded.weight("embed.positions", np.float32)
        expected = loaded.weight("embed.tokens", np.float32)[step.token_ids] + table[step.positions]
        got = loaded.get("residual", expected.shape)
        assert np.array_equal(got, expected)


def test_embed_normalised() -> None:
    spec = gpt2(family="bloom", positions=("alibi",), embedding_norm=True)
    with rig(spec, 2) as loaded:
        step, op = step_of([5]), loaded.op("embed")
        loaded.run(op, step)
        rows = loaded.weight("embed.tokens", np.float64)[step.token_ids]
        exact, numpy32 = (
            reference.normalise(
                rows.astype(dtype), "layer", op.norm.eps, loaded.weight(op.norm.weight, dtype),
                loaded.weight(op.norm.bias, dtype),
            )
            for dtype in (np.float64, np.float32)
        )  # fmt: skip
        assert_accurate(loaded.get("residual", exact.shape), exact, numpy32, 4.0)
