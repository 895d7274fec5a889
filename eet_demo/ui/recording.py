"""A recorded race as the stage's value: the trace, with the figures computed from its stamps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from eet_demo.results.metrics import figures
from eet_demo.sides.pairing import compared_pair
from eet_demo.ui.precision import precision_words, recorded_saving


def recorded_result(trace: Mapping[str, Any]) -> dict[str, Any]:
    """`trace`, its figures, the pair they compare and `precision` in words, as the page's script reads them."""
    words = precision_words(trace["settings"], recorded_saving(trace))
    pair = compared_pair([side["name"] for side in trace["sides"]])
    return {"trace": dict(trace), **figures(trace), "pair": pair, "precision": words}
