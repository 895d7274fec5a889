"""A recorded race as the stage's value: the trace, with the figures computed from its stamps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from eet_demo.race.metrics import side_metrics, speedup


def recorded_result(trace: Mapping[str, Any]) -> dict[str, Any]:
    """`trace`, `metrics` per side and `speedup` (null with one side), as assets/race.js reads them."""
    lengths = [len(row) for row in trace["prompt_ids"]]
    metrics = [side_metrics(side["tokens"], lengths) for side in trace["sides"]]
    return {"trace": dict(trace), "metrics": metrics, "speedup": speedup(*metrics) if len(metrics) == 2 else None}
