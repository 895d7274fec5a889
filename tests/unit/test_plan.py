"""The memory plan: exact sizes, no two live blocks on the same bytes, layers sharing theirs, refusal with figures."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

import pytest

from eet_demo.engine.compile_spec import build_program
from eet_demo.engine.executors.reference.executor import ReferenceLayout
from eet_demo.engine.families import weights_of
from eet_demo.engine.plan import ALIGNMENT, Limits, Plan, plan_memory
from eet_demo.engine.program import Op
from eet_demo.engine.spec import ModelSpec
from eet_demo.errors import MemoryPlanError, UnsupportedError

SPEC = ModelSpec(
    family="llama",
    vocab_size=1000,
    hidden_size=72,
    num_layers=5,
    num_heads=9,
    num_kv_heads=3,
    head_dim=8,
    intermediate_size=200,
    max_positions=512,
    norm="rms",
    norm_eps=1e-5,
    positions=("rotary",) * 5,
    mlp="gated",
    activation="silu",
    tied_head=True,
    rotary_dim=8,
)
LIMITS = Limits(max_batch=3, max_context=100, prefill_chunk=32)


class ScratchLayout(ReferenceLayout):
    """Every matrix op needs scratch, of a size that names it."""

    def scratch_bytes(self, op: Op, limits: Limits) -> int:
        return 1000 + len(op.name) if op.linear else 0


def plan(spec: ModelSpec = SPEC, guard_bytes: int = 0) -> Plan:
    return plan_memory(build_program(spec), ScratchLayout("float32"), LIMITS, guard_bytes)


def aligned(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT


def test_regions_are_exact() -> None:
    report = plan().report
    assert report.weights_bytes == sum(aligned(4 * w.rows * max(1, w.columns)) for w in weights_of(SPEC))
    assert report.kv_cache_bytes == aligned(5 * 2 * 3 * 3 * 100 * 8 * 4)


@pytest.mark.parametrize("guard_bytes", [0, 64])
@pytest.mark.parametrize("placement", ["pre", "both"])
@pytest.mark.parametrize("parallel", [False, True])
def test_live_blocks_never_overlap(guard_bytes: int, placement: Literal["pre", "both"], parallel: bool) -> None:
    spec = replace(SPEC, norm_placement=placement, parallel_residual=parallel)
    made = plan(spec, guard_bytes)
    workspace = [block for block in made.blocks.values() if block.offset >= made.report.weights_bytes]
    for a in workspace:
        assert a.offset % ALIGNMENT == 0
        assert a.end + guard_bytes <= made.total_bytes
        for b in workspace:
            live_together = a.first_op <= b.last_op and b.first_op <= a.last_op
            if a is not b and live_together and "kv_cache" not in (a.name, b.name):
                assert a.end + guard_bytes <= b.offset or b.end + guard_bytes <= a.offset, f"{a} and {b}"


def test_layers_share_their_buffers() -> None:
    made = plan()
    for stem in ("q", "attention", "hidden"):
        assert len({made.blocks[f"{stem}.{layer}"].offset for layer in range(SPEC.num_layers)}) == 1
    deeper = plan(replace(SPEC, num_layers=9, positions=("rotary",) * 9))
    assert deeper.report.workspace_bytes - made.report.workspace_bytes < 128, "workspace grew with depth"


def test_workspace_does_not_grow_with_context() -> None:
    program = build_program(SPEC)
    short, long = (
        plan_memory(program, ReferenceLayout("float32"), Limits(3, context, 32)).report for context in (100, 400)
    )
    assert short.workspace_bytes == long.workspace_bytes
    assert long.kv_cache_bytes == 4 * short.kv_cache_bytes


def test_too_small_memory_is_refused_with_figures() -> None:
    made = plan()
    made.check_fits(made.total_bytes)
    with pytest.raises(MemoryPlanError, match=f"{made.total_bytes:,} bytes.*weights.*KV cache.*workspace.*available"):
        made.check_fits(made.total_bytes - 1)


def test_table_names_every_region() -> None:
    text = plan().table()
    for name in ("weights", "KV cache", "workspace", "residual", "logits", "scratch"):
        assert name in text


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("hidden_size", 111, "hidden size 111"),
        ("head_dim", 12, "head_dim 12"),
        ("head_dim", 264, "head_dim 264"),
        ("num_kv_heads", 2, "9 query heads"),
        ("num_layers", 4, "positions"),
    ],
)
def test_unsupported_shapes_are_named(field: str, value: Any, message: str) -> None:
    with pytest.raises(UnsupportedError, match=message):
        replace(SPEC, **{field: value})
