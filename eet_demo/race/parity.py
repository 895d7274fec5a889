"""Do both sides write the same tokens? Where they part, how close was the call? Only `compare_lanes` asks a worker."""

from __future__ import annotations

import threading
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from eet_demo.errors import EetError
from eet_demo.results.metrics import rows_of
from eet_demo.sides.side import RunRequest

if TYPE_CHECKING:
    from eet_demo.race.lane import Lane


@dataclass(frozen=True)
class Question:
    """What stock is asked after the clocks stop: its logits of two ids after `prefix` (teacher-forced)."""

    row: int
    prefix: tuple[int, ...]
    baseline_id: int
    contender_id: int


def compare_rows(baseline: Sequence[Sequence[int]], contender: Sequence[Sequence[int]]) -> list[dict[str, Any]]:
    """One entry a row over the length both have: `equal_tokens`, `first_divergence` (None when there is none)."""
    rows: list[dict[str, Any]] = []
    for left, right in zip(baseline, contender, strict=True):
        common = min(len(left), len(right))
        equal = next((i for i in range(common) if left[i] != right[i]), common)
        divergence = equal if equal < common else None
        rows.append({"equal_tokens": equal, "first_divergence": divergence, "margin_at_divergence": None})
    return rows


def questions(
    prompt_ids: Sequence[Sequence[int]],
    baseline: Sequence[Sequence[int]],
    contender: Sequence[Sequence[int]],
    rows: Sequence[dict[str, Any]],
) -> list[Question]:
    """One question for each row that diverges: the common prefix and the two ids that follow it."""
    asked: list[Question] = []
    for index, row in enumerate(rows):
        at = row["first_divergence"]
        if at is not None:
            prefix = (*prompt_ids[index], *baseline[index][:at])
            asked.append(Question(index, prefix, baseline[index][at], contender[index][at]))
    return asked


def with_margins(
    rows: Sequence[dict[str, Any]], asked: Sequence[Question], logits: Sequence[Sequence[float]]
) -> list[dict[str, Any]]:
    """The rows with `margin_at_divergence`: the baseline's logit of its own id minus that of the contender's."""
    margins = {question.row: pair[0] - pair[1] for question, pair in zip(asked, logits, strict=True)}
    return [row | {"margin_at_divergence": margins.get(index)} for index, row in enumerate(rows)]


def compare_lanes(
    baseline: Lane, contender: Lane, request: RunRequest, stop: threading.Event, notes: list[str]
) -> Generator[None, None, list[dict[str, Any]] | None]:
    """Parity of two lanes that have run; None without tokens.

    The baseline is asked for margins unless Stop was pressed; one that cannot answer leaves them None, said in `notes`.
    """
    batch = len(request.prompt_ids)
    left = rows_of(baseline.record.tokens, batch, "id")
    right = rows_of(contender.record.tokens, batch, "id")
    if not any(left) or not any(right):
        return None
    rows = compare_rows(left, right)
    asked = questions(request.prompt_ids, left, right, rows)
    if not asked or stop.is_set() or baseline.over:
        return rows
    pairs = [(question.baseline_id, question.contender_id) for question in asked]
    try:
        logits = yield from baseline.ask_logits([question.prefix for question in asked], pairs)
    except EetError as error:
        notes.append(f"the margins at the divergence are not known: {error}")
        return rows
    return with_margins(rows, asked, logits)
