"""A machine that is a toy, and races on it that take no time: what tests of a whole race drive and look at."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from eet_demo.race.bench import Bench
from eet_demo.race.race import Race
from eet_demo.race.resources import RaceResources
from eet_demo.records import RaceSettings
from eet_demo.results.trace import Trace, validate_trace
from tests.fake_clock import FakeTime
from tests.fake_workers import FakeMachine, resources_of, settings_of, write_model

Update = dict[str, Any]


class Track:
    """A machine and the races on it."""

    def __init__(self, folder: Path, total_bytes: int = 10**9) -> None:
        self.time = FakeTime()
        self.machine = FakeMachine(self.time, total_bytes)
        self.resources: RaceResources = resources_of(self.machine, folder)
        self.model = write_model(folder)

    def settings(self, *sides: str, **changed: Any) -> RaceSettings:
        return settings_of(self.model, *sides, **changed)

    def race(
        self, *sides: str, on_update: Callable[[Race, Update], None] = lambda race, update: None, **changed: Any
    ) -> list[Update]:
        """Every update of a whole race."""
        race = Race(self.settings(*sides, **changed), self.resources)
        updates: list[Update] = []
        for batch in race.run():
            for update in batch:
                updates.append(update)
                on_update(race, update)
        return updates

    def bench(self, *sides: str, repeats: int = 1, **changed: Any) -> dict[str, Any]:
        settings = self.settings(*sides, **changed)
        return Bench(settings, repeats, Path(self.model), self.resources).run(lambda line: None)


def trace_of(updates: list[Update]) -> Trace:
    assert updates[-1]["kind"] == "result"
    return validate_trace(updates[-1]["trace"])


def states_of(updates: list[Update]) -> list[tuple[int, str]]:
    return [(update["side"], update["state"]) for update in updates if update["kind"] == "state"]


def phases_of(trace: Trace, side: int) -> dict[str, float]:
    """Seconds of every phase."""
    return {phase["name"]: (phase["end_ns"] - phase["start_ns"]) / 1e9 for phase in trace["sides"][side]["phases"]}
