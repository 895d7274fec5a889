"""Side names: `stock`, `stock-eager`, `engine`, `engine:prefill_chunk=64`: a kind, then options switched."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from eet_demo.errors import RequestError
from eet_demo.sides.kinds import KINDS, SideKind


@dataclass(frozen=True)
class SideName:
    """A parsed side name. `options` are the text after the colon, `name=value` pairs, unparsed."""

    text: str
    kind: SideKind
    options: Mapping[str, str] = field(default_factory=dict)


def parse_side(name: str) -> SideName:
    """The kind and options of a side's name.

    Raises:
        RequestError: an unknown kind, or options that are not `name=value` pairs separated by commas.
    """
    kind_name, colon, rest = name.strip().partition(":")
    if kind_name not in KINDS:
        offered = [kind.name + (", " + kind.name + ":OPTION=VALUE" if kind.check else "") for kind in _offered()]
        raise RequestError(f"unknown side {name!r}; there are: {', '.join(offered)}")
    kind = KINDS[kind_name]
    options: dict[str, str] = {}
    for pair in rest.split(",") if colon else []:
        key, equals, value = pair.partition("=")
        if not (key and equals):
            raise RequestError(f"side {name!r}: {pair!r} is not OPTION=VALUE")
        options[key.strip()] = value.strip()
    if options and not kind.check:
        raise RequestError(f"side {name!r}: {kind_name} takes no options")
    return SideName(name.strip(), kind, options)


def split_sides(text: str) -> tuple[str, ...]:
    """The sides of a list like `stock,engine:debug=on,prefill_chunk=64`: a comma also joins one side's options."""
    names: list[str] = []
    for piece in text.split(","):
        kind = piece.strip().partition(":")[0]
        if names and ":" in names[-1] and "=" in kind:
            names[-1] += f",{piece.strip()}"
        else:
            names.append(piece.strip())
    return tuple(names)


def _offered() -> list[SideKind]:
    return [kind for kind in KINDS.values() if not kind.scripted]
