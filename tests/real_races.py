"""Races between scripted sides in real workers, and what they told."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import psutil

from eet_demo.race.race import Race
from eet_demo.race.resources import RaceResources
from eet_demo.records import RaceSettings
from eet_demo.results.trace import Trace, validate_trace

Update = dict[str, Any]
Started = Callable[[], list[psutil.Process]]
"""The child processes that a test has started: a fixture."""


def race_settings(*sides: str, **changed: Any) -> RaceSettings:
    fields = {"model": "smollm2-135m", "context": 64, "new_tokens": 12, "prompt": "bread", **changed}
    return RaceSettings(sides=sides or ("scripted:rate=400,waits=off", "scripted:rate=800,waits=off"), **fields)


def run_race(
    resources: RaceResources, settings: RaceSettings, on_update: Callable[[Race, Update], None] | None = None
) -> list[Update]:
    """Every update of a whole race."""
    race = Race(settings, resources)
    updates: list[Update] = []
    for batch in race.run():
        for update in batch:
            updates.append(update)
            if on_update is not None:
                on_update(race, update)
    return updates


def trace_of(updates: list[Update]) -> Trace:
    assert updates[-1]["kind"] == "result"
    return validate_trace(updates[-1]["trace"])


def states(updates: list[Update], side: int) -> list[str]:
    return [update["state"] for update in updates if update["kind"] == "state" and update["side"] == side]


def columns(updates: list[Update], side: int) -> dict[str, list[Any]]:
    """The token columns as a page that listens puts them together."""
    names = ("row", "time_ns", "id", "text", "after_end")
    found: dict[str, list[Any]] = {name: [] for name in names}
    for update in updates:
        if update["kind"] == "tokens" and update["side"] == side:
            for name in names:
                found[name] += update[name]
    return found
