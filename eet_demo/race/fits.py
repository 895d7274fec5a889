"""Do both sides fit in memory at once, or each in its turn, or not at all? Decided before any weights are loaded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from eet_demo.errors import EetError, MemoryPlanError
from eet_demo.race.lane import Lane
from eet_demo.sides.build import side_bytes
from eet_demo.sides.side import SideOptions
from eet_demo.sizes import size_text


@dataclass(frozen=True)
class Residency:
    """Whether all sides stay loaded, what the page says about it, and the sides that cannot run here and why."""

    resident: bool
    notes: list[str] = field(default_factory=list)
    refused: dict[int, EetError] = field(default_factory=dict)


def decide(lanes: Sequence[Lane], available_bytes: int) -> Residency:
    """What fits: each lane needs its estimate, less what its worker holds; alone, it also has what the others hold.

    Args:
        lanes: with their processes started, so that what a bare process weighs is already out of `available_bytes`.

    Raises:
        EetError: no lane can run here, even alone; a MemoryPlanError has the figures.
    """
    needed: dict[int, int] = {}
    refused: dict[int, EetError] = {}
    for lane in lanes:
        try:
            needed[lane.index] = 0 if lane.over else max(0, side_bytes(lane.options) - lane.held_bytes)
            alone_bytes = available_bytes + sum(other.held_bytes for other in lanes if other is not lane)
            if needed[lane.index] > alone_bytes:
                refused[lane.index] = _too_large(lane.options, needed[lane.index], alone_bytes)
        except EetError as error:
            refused[lane.index] = error
    if len(refused) == len(lanes):
        raise next(iter(refused.values()))
    total = sum(size for index, size in needed.items() if index not in refused)
    if total <= available_bytes:
        return Residency(True, refused=refused)
    note = (
        f"both sides together need {size_text(total)} and {size_text(available_bytes)} are available: "
        "each is loaded for its turn and unloaded before the other"
    )
    return Residency(False, [note], refused)


def _too_large(options: SideOptions, needed: int, available: int) -> MemoryPlanError:
    where = " on the GPU" if options.device == "cuda" else ""
    return MemoryPlanError(
        f"{options.side} needs {needed:,} bytes ({size_text(needed)}) for this model, context and batch; "
        f"{available:,} ({size_text(available)}) are available{where}. Choose a smaller model, context or batch."
    )
