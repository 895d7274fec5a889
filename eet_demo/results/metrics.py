"""Figures of a race from its stamps alone: pure functions over nanosecond columns. Undefined figures are None, never 0.

Definitions (vLLM's): TTFT is the first stamp since t0; TPOT (last - first)/(n - 1) of a row; ITL every gap between
successive tokens of a row, all rows pooled. Rates are totals over the rows unless their name says `per_row`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

from eet_demo.sides.pairing import compared_pair

Metrics = dict[str, Any]


def side_metrics(tokens: Mapping[str, Sequence[int]], prompt_lengths: Sequence[int]) -> Metrics:
    """The figures of one side.

    Args:
        tokens: columns `row`, `time_ns` (nanoseconds from t0, per row in order).
        prompt_lengths: real prompt tokens of each row (padding is nobody's work).

    Returns:
        `ttft_ms`, `tpot_ms` (mean over rows), `itl_ms_p50`, `_p95`, `_p99`, `prefill_tok_s`, `decode_tok_s` (total),
        `decode_tok_s_per_row`, `end_to_end_ms`, `new_tokens`.
    """
    stamps = rows_of(tokens, len(prompt_lengths))
    firsts = [row[0] for row in stamps if row]
    lasts = [row[-1] for row in stamps if row]
    if not firsts:
        return dict.fromkeys(FIGURES, None) | {"new_tokens": 0}
    count = sum(map(len, stamps))
    gaps_ms = sorted((b - a) / 1e6 for row in stamps for a, b in itertools.pairwise(row))
    tpots_ms = [(row[-1] - row[0]) / 1e6 / (len(row) - 1) for row in stamps if len(row) > 1]
    decode_s = (max(lasts) - min(firsts)) / 1e9
    decode_tok_s = _ratio(count - len(firsts), decode_s)
    return {
        "ttft_ms": min(firsts) / 1e6,
        "tpot_ms": sum(tpots_ms) / len(tpots_ms) if tpots_ms else None,
        "itl_ms_p50": percentile(gaps_ms, 50),
        "itl_ms_p95": percentile(gaps_ms, 95),
        "itl_ms_p99": percentile(gaps_ms, 99),
        "prefill_tok_s": _ratio(sum(prompt_lengths), min(firsts) / 1e9),
        "decode_tok_s": decode_tok_s,
        "decode_tok_s_per_row": decode_tok_s / len(firsts) if decode_tok_s is not None else None,
        "end_to_end_ms": max(lasts) / 1e6,
        "new_tokens": count,
    }


FIGURES = (
    "ttft_ms",
    "tpot_ms",
    "itl_ms_p50",
    "itl_ms_p95",
    "itl_ms_p99",
    "prefill_tok_s",
    "decode_tok_s",
    "decode_tok_s_per_row",
    "end_to_end_ms",
)
"""Every figure that may be undefined; `new_tokens` is a count."""


def figures(trace: Mapping[str, Any]) -> dict[str, Any]:
    """`metrics` (one a side), `speedup` (None with one side) and `parity` of a trace: the page's numbers at the end."""
    lengths = [len(row) for row in trace["prompt_ids"]]
    metrics = [side_metrics(side["tokens"], lengths) | {"memory": peaks(side["memory"])} for side in trace["sides"]]
    pair = compared_pair([side["name"] for side in trace["sides"]])
    return {
        "metrics": metrics,
        "speedup": speedup(metrics[pair[0]], metrics[pair[1]]) if pair is not None else None,
        "parity": trace["parity"],
    }


def peaks(memory: Mapping[str, Sequence[int | None]]) -> dict[str, int]:
    """The largest sample of every kind of memory, by the column's name."""
    columns = {name: [value for value in column if value is not None] for name, column in memory.items()}
    return {name: max(values) for name, values in columns.items() if values and name != "time_ns"}


def rows_of(tokens: Mapping[str, Sequence[int]], batch: int, column: str = "time_ns") -> list[list[int]]:
    """One column of `tokens` as a list for each of `batch` rows."""
    rows: list[list[int]] = [[] for _ in range(batch)]
    for row, value in zip(tokens["row"], tokens[column], strict=True):
        rows[row].append(value)
    return rows


def percentile(ordered: Sequence[float], percent: float) -> float | None:
    """Linear between the two nearest ranks (NumPy's default) of an ascending sequence; None when it is empty."""
    if not ordered:
        return None
    place = (len(ordered) - 1) * percent / 100
    low = math.floor(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)


def median(values: Sequence[float | None]) -> float | None:
    """Median of the values there are; None when there are none."""
    return percentile(sorted(value for value in values if value is not None), 50)


def interquartile(values: Sequence[float | None]) -> float | None:
    """75th less 25th percentile of the values there are: the width of their middle half; None of fewer than two."""
    ordered = sorted(value for value in values if value is not None)
    low, high = percentile(ordered, 25), percentile(ordered, 75)
    return high - low if low is not None and high is not None and len(ordered) > 1 else None


def speedup(baseline: Metrics, contender: Metrics) -> dict[str, float | None]:
    """Each above 1 favours the contender; None where a figure is missing."""
    return {
        "decode": _ratio(contender["decode_tok_s"], baseline["decode_tok_s"]),
        "prefill": _ratio(contender["prefill_tok_s"], baseline["prefill_tok_s"]),
        "ttft": _ratio(baseline["ttft_ms"], contender["ttft_ms"]),
        "end_to_end": _ratio(baseline["end_to_end_ms"], contender["end_to_end_ms"]),
    }


def _ratio(numerator: float | None, denominator: float | None) -> float | None:
    if numerator is None or not numerator or not denominator:
        return None
    return numerator / denominator
