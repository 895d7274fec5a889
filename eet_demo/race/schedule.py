"""Who runs when. `in_turn`: one after the other, each alone on the machine. `together`: at once, sharing it.

Lanes are generators that yield while they wait, so that one loop drives either schedule.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from eet_demo.race.job import Waiting
from eet_demo.race.lane import Lane


def in_turn(lanes: Sequence[Lane], resident: bool) -> Waiting:
    """Stock first, then the engine, in the order given; each is loaded, warmed and timed alone.

    Args:
        resident: both stay in memory; else a lane is unloaded before the next one is loaded.
    """
    for later in lanes[1:]:
        later.wait_for("waits, so that each side has the machine alone")
    for lane in lanes:
        if not resident:
            for other in lanes:
                if other is not lane:
                    other.unload()
        yield from lane.prepare()
        yield from lane.race()


def together(lanes: Sequence[Lane]) -> Waiting:
    """Loads and warms one after the other, then times all at once: their figures share the hardware."""
    for lane in lanes:
        yield from lane.prepare()
        lane.wait_for("ready; both start at once")
    yield from at_once(lane.race() for lane in lanes)


def at_once(steps: Iterable[Waiting]) -> Waiting:
    """Advances every generator once a tick until all have ended."""
    running = list(steps)
    while running:
        running = [each for each in running if _advance(each)]
        if running:
            yield


def _advance(steps: Waiting) -> bool:
    try:
        next(steps)
    except StopIteration:
        return False
    return True
