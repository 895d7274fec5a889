"""Side names: `stock`, `stock-eager`, `engine`, `engine:prefill_chunk=64`: a kind, then options switched."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import cast

from eet_demo.errors import RequestError
from eet_demo.sides.side import Side, SideOptions

SIDE_CLASSES = {
    "stock": "eet_demo.sides.stock:BaselineSide",
    "stock-eager": "eet_demo.sides.stock:BaselineSide",
    "stock-static": "eet_demo.sides.stock:BaselineSide",
    "engine": "eet_demo.sides.engine:EngineSide",
    "scripted": "eet_demo.sides.scripted:ScriptedSide",
}
"""Kind -> class, imported by the worker alone: the engine's worker never sees torch."""


@dataclass(frozen=True)
class SideName:
    """A parsed side name. `options` are the text after the colon, `name=value` pairs, unparsed."""

    kind: str
    options: Mapping[str, str] = field(default_factory=dict)

    @property
    def is_stock(self) -> bool:
        return self.kind.startswith("stock")

    @property
    def is_engine(self) -> bool:
        return self.kind == "engine"


def parse_side(name: str) -> SideName:
    """The kind and options of a side's name.

    Raises:
        RequestError: an unknown kind, or options that are not `name=value` pairs separated by commas.
    """
    kind, colon, rest = name.strip().partition(":")
    if kind not in SIDE_CLASSES:
        known = ", ".join(known for known in SIDE_CLASSES if known != "scripted")
        raise RequestError(f"unknown side {name!r}; there are: {known} (and engine:OPTION=VALUE)")
    options: dict[str, str] = {}
    for pair in rest.split(",") if colon else []:
        key, equals, value = pair.partition("=")
        if not (key and equals):
            raise RequestError(f"side {name!r}: {pair!r} is not OPTION=VALUE")
        options[key.strip()] = value.strip()
    if options and kind.startswith("stock"):
        raise RequestError(f"side {name!r}: {kind} takes no options; its variants are stock, stock-eager, stock-static")
    return SideName(kind, options)


def split_sides(text: str) -> tuple[str, ...]:
    """The sides of a list like `stock,engine:debug=on,prefill_chunk=64`: a comma also joins the options of one side."""
    names: list[str] = []
    for piece in text.split(","):
        kind = piece.strip().partition(":")[0]
        if names and ":" in names[-1] and "=" in kind:
            names[-1] += f",{piece.strip()}"
        else:
            names.append(piece.strip())
    return tuple(names)


def build_side(options: SideOptions) -> Side:
    """The side of these options, not loaded yet. Imports its module here, in the worker."""
    module_name, _, class_name = SIDE_CLASSES[parse_side(options.side).kind].partition(":")
    side_class = getattr(importlib.import_module(module_name), class_name)
    return cast(Side, side_class(options))


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


def _rank(side: SideName) -> int:
    if side.is_stock:
        return 0
    return 2 if side.is_engine and not side.options else 1
