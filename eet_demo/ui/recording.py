"""A recorded race as the stage's value: the trace, with the figures computed from its stamps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from eet_demo.records import as_json
from eet_demo.results.metrics import figures
from eet_demo.sides.pairing import compared_pair, shown
from eet_demo.ui.precision import precision_words, recorded_saving


def recorded_result(trace: Mapping[str, Any]) -> dict[str, Any]:
    """`trace`, its figures, what its sides are, the pair they compare, and precision in words, as the page reads it."""
    words = precision_words(trace["settings"], recorded_saving(trace))
    names = [side["name"] for side in trace["sides"]]
    told = {"kinds": as_json(shown(names)), "pair": compared_pair(names), "precision": words}
    return {"trace": dict(trace), **figures(trace), **told}
