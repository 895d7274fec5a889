"""Rows of panels: every row has one place of its own, and what the plan reserves is what the C++ writes."""

from __future__ import annotations

import numpy as np
import pytest

from eet_demo.engine.executors.cpu.layout import PANEL, CpuLayout, destinations, panel_rows
from eet_demo.engine.families import weights_of
from eet_demo.engine.spec import ModelSpec
from tests.kernels.cpu_harness import gpt2, llama

SPECS = {
    "llama": llama(),
    "half-panels": llama(80, 10, 2, 8, intermediate_size=88, mlp_bias=True, qkv_bias=True),
    "interleaved-pairs": llama(rope_pairs="interleaved"),
    "gpt2": gpt2(vocab_size=1009),
}


@pytest.mark.parametrize("name", list(SPECS))
def test_rows_have_places_of_their_own(name: str) -> None:
    spec: ModelSpec = SPECS[name]
    for weight in weights_of(spec):
        places = np.concatenate(destinations(spec, weight))
        assert len(places) == weight.rows
        assert len(np.unique(places)) == len(places), weight.name
        assert places.min() >= 0
        assert places.max() < panel_rows(weight)
        assert panel_rows(weight) % PANEL == 0
        if weight.is_matrix and weight.name != "embed.positions":
            assert CpuLayout().weight_bytes(weight) == 4 * panel_rows(weight) * weight.columns


def test_gate_and_up_alternate_by_panels() -> None:
    spec = llama(intermediate_size=40)
    weight = next(weight for weight in weights_of(spec) if weight.interleaved)
    gate, up = destinations(spec, weight)
    assert gate[:17].tolist() == [*range(16), 32]
    assert np.array_equal(up, gate + PANEL)
    assert panel_rows(weight) == 2 * 48


def test_rotary_partners_are_neighbours_in_q_and_k_alone() -> None:
    spec = llama(64, 2, 1, 24, rotary_dim=16)
    weight = next(weight for weight in weights_of(spec) if weight.name == "layers.0.qkv.weight")
    q, k, v = destinations(spec, weight)
    head = [0, 2, 4, 6, 8, 10, 12, 14, 1, 3, 5, 7, 9, 11, 13, 15, *range(16, 24)]
    assert q.tolist() == head + [24 + place for place in head]
    assert k.tolist() == [48 + place for place in head]
    assert v.tolist() == list(range(72, 96))
