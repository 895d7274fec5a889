"""Side names: `stock`, `stock-eager`, `engine`, `engine:prefill_chunk=64`: a kind, then options switched."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import cast

from eet_demo.errors import RequestError
from eet_demo.sides import Side, SideOptions

SIDE_CLASSES = {
    "stock": "eet_demo.sides.baseline:BaselineSide",
    "stock-eager": "eet_demo.sides.baseline:BaselineSide",
    "stock-static": "eet_demo.sides.baseline:BaselineSide",
    "engine": "eet_demo.sides.engine_side:EngineSide",
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


def build_side(options: SideOptions) -> Side:
    """The side of these options, not loaded yet. Imports its module here, in the worker."""
    module_name, _, class_name = SIDE_CLASSES[parse_side(options.side).kind].partition(":")
    side_class = getattr(importlib.import_module(module_name), class_name)
    return cast(Side, side_class(options))
