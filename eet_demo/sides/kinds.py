"""What a side is, one record a kind: everything else asks the record and not the name. A new side is its module and its
entry in KINDS.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class SideKind:
    """Modules are named, not imported: what a side needs is loaded by its worker alone.

    Args:
        name: what a visitor writes, before the colon that options follow.
        title: on the page.
        side: `module:Class` of its Side.
        bytes_needed: `module:function`, which takes SideOptions and says what the side will take beyond its bare
            process, before anything is loaded.
        check: `module:function`, which takes a SideName and refuses options there are not; empty without options.
        hue: the colour of its lane, a name of the style sheet; empty takes that of its place.
        rank: the lower of two is the baseline of the higher; of one kind, the side with an option switched.
        stock_words: its line in the page's list of stock's variants; empty for what is none.
        allocates: with its weights, so that a worker serves the size it was loaded for, or with each run.
        compiles: kernels, before its weights are loaded.
        deaf: said when Stop comes inside its prefill and has to end its process; empty for one that hears it there.
        silence: said of a prefill that cannot tell how far it is; empty for one that does.
        dense: its weights are dense in the race's dtype, whatever the race's weights.
        random: who draws random weights for it; sides of one source compute with the same.
        scripted: has no model, and races in tests alone.
    """

    name: str
    title: str
    side: str
    bytes_needed: str
    check: str = ""
    hue: str = ""
    rank: int = 1
    stock_words: str = ""
    allocates: Literal["load", "run"] = "load"
    compiles: bool = False
    deaf: str = ""
    silence: str = ""
    dense: bool = False
    random: str = ""
    scripted: bool = False


def _stock(name: str, title: str, words: str, allocates: Literal["load", "run"]) -> SideKind:
    """A variant of transformers' `generate`."""
    return SideKind(
        name,
        title,
        side="eet_demo.sides.stock:BaselineSide",
        bytes_needed="eet_demo.sides.stock_bytes:stock_bytes",
        hue="stock",
        rank=0,
        stock_words=words,
        allocates=allocates,
        deaf="stock generate cannot hear Stop inside its prefill, so its process was ended",
        silence="stock generate cannot report from inside its prefill",
        dense=True,
        random="transformers",
    )


_ALL = (
    _stock("stock", "Stock generate", "stock: library defaults", "run"),
    _stock("stock-eager", "Stock generate, eager", "stock-eager: eager attention", "run"),
    _stock("stock-static", "Stock generate, static cache", "stock-static: static cache", "load"),
    SideKind(
        "engine",
        "Engine",
        side="eet_demo.sides.engine:EngineSide",
        bytes_needed="eet_demo.sides.engine:planned_bytes",
        check="eet_demo.sides.engine:switched_options",
        hue="engine",
        rank=2,
        compiles=True,
        random="engine",
    ),
    SideKind(
        "scripted",
        "Scripted side",
        side="eet_demo.sides.scripted:ScriptedSide",
        bytes_needed="eet_demo.sides.scripted:no_bytes",
        check="eet_demo.sides.scripted:scenario_of",
        scripted=True,
    ),
)

KINDS = {kind.name: kind for kind in _ALL}
"""By name, in the order in which they are listed."""
