"""From a side's options to the side itself, and what can be said of it before: its module is imported here, by name."""

from __future__ import annotations

import pkgutil
from typing import cast

from eet_demo.sides.names import parse_side
from eet_demo.sides.side import Side, SideOptions


def check_side(name: str) -> None:
    """Refuses what no side is called. Raises RequestError: an unknown kind, or an option that it has not."""
    side = parse_side(name)
    if side.kind.check:
        pkgutil.resolve_name(side.kind.check)(side)


def side_bytes(options: SideOptions) -> int:
    """Bytes a side will need beyond its bare process.

    Raises:
        EetError: the model cannot be planned: an unsupported architecture, a broken checkpoint.
    """
    return int(pkgutil.resolve_name(parse_side(options.side).kind.bytes_needed)(options))


def build_side(options: SideOptions) -> Side:
    """The side of these options, not loaded yet; for its worker, whose process then weighs what its libraries do."""
    return cast(Side, pkgutil.resolve_name(parse_side(options.side).kind.side)(options))
