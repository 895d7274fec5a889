"""Which two of a race's sides its speed-up compares, and how the page shows each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from eet_demo.sides.names import SideName, parse_side

HUES = ("stock", "engine")
"""Of kinds without one of their own, by place."""


@dataclass(frozen=True)
class Shown:
    """What the page says of a side before, and whatever, it has done.

    Args:
        hue: a name of the style sheet.
        dense: its weights are dense, whatever the race's are.
        silence: said of a prefill that cannot tell how far it is; empty for one that does.
    """

    title: str
    hue: str
    dense: bool
    silence: str


def compared_pair(names: Sequence[str]) -> tuple[int, int] | None:
    """(baseline, contender): the indices of the two sides that a speed-up compares; None with one side.

    Stock is the baseline of an engine, an engine with an option switched that of one without; else the first and last.
    """
    if len(names) < 2:
        return None
    ranks = [_rank(parse_side(name)) for name in names]
    baseline = ranks.index(min(ranks))
    contender = len(ranks) - 1 - ranks[::-1].index(max(ranks))
    return baseline, contender


def shown(names: Sequence[str]) -> list[Shown]:
    """Each side as the page shows it."""
    return [_shown(parse_side(name), HUES[place % len(HUES)]) for place, name in enumerate(names)]


def _rank(side: SideName) -> tuple[int, bool]:
    return side.kind.rank, not side.options


def _shown(side: SideName, hue: str) -> Shown:
    kind = side.kind
    options = ",".join(f"{name}={value}" for name, value in side.options.items())
    title = f"{kind.title} ({options})" if options and not kind.scripted else kind.title
    return Shown(title, kind.hue or hue, kind.dense, kind.silence)
