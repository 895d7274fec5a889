"""What the page's events do. Lower layers raise; here an error becomes words on the page, and the next race works."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import gradio as gr

from eet_demo.errors import StoppedError
from eet_demo.records import RaceSettings, as_json
from eet_demo.sides.pairing import shown
from eet_demo.ui.runs import Payload, RaceLike, Run, Runs, Update
from eet_demo.ui.visitors import error_update, for_visitors

SIGN_OF_LIFE_S = 0.25
"""Longest silence of a running race: Gradio closes the generator of a visitor who left only between two yields."""

QUEUED_WORDS = "Waiting for the machine"
RACING_WORDS = "Racing"
STOPPING_WORDS = "Stopping"
READY_WORDS = "Ready"

FORGOTTEN = StoppedError("Many others have asked for a race since, and yours lost its place in the queue.")

MakeRace = Callable[[RaceSettings], RaceLike]


@dataclass(frozen=True)
class Handlers:
    """The events of one page.

    Args:
        check: raises EetError for settings that no race could have; quick, since it does not wait in the queue.
        make_race: a race of checked settings, not started.
        precision: of settings in JSON: whether both sides compute with the same numbers, in words.
    """

    runs: Runs
    check: Callable[[RaceSettings], None]
    make_race: MakeRace
    precision: Callable[[Mapping[str, Any]], str] = lambda settings: ""

    def press(self, session: str, read: Callable[[], RaceSettings]) -> tuple[Run, Payload]:
        """Race was pressed: the settings are checked at once, and the page is told to queue, or what is wrong."""
        run = self.runs.begin(session)
        try:
            settings = read()
            self.check(settings)
        except Exception as error:  # the page is the last place that can say it
            return run, run.payload(error_update(error))
        run.settings = settings
        return run, run.payload({"kind": "queued", "kinds": as_json(shown(settings.sides))}, {"kind": "go"})

    def take_turn(self, session: str) -> Iterator[Payload]:
        """The machine is this visitor's: runs their race, if it still is to be run, and yields the stage's values."""
        run = self.runs.of_session(session)
        if run is None:  # too many came after them, or they closed the tab
            yield Run(session).payload(error_update(FORGOTTEN), {"kind": "end"})
        elif run.settings is not None:
            yield from self.drain(run)

    def drain(self, run: Run) -> Iterator[Payload]:
        """Runs a race and yields the stage's values, at least one every SIGN_OF_LIFE_S."""
        try:
            assert run.settings is not None
            race = self.make_race(run.settings)
            if run.start(race):
                with contextlib.closing(self._updates(run, race)) as batches:
                    for updates in batches:
                        yield run.payload(*map(self._explained, updates)) if updates else run.sign_of_life()
        except Exception as error:  # as above; GeneratorExit of a visitor who left is no Exception
            yield run.payload(error_update(error))
        yield run.payload({"kind": "end"})

    def race(self, session: str, settings: RaceSettings) -> Generator[dict[str, Any] | None]:
        """A race without a page: None about every SIGN_OF_LIFE_S, its trace at the end. Closing it stops the race.

        Raises:
            EetError: the settings are refused, the race cannot begin, or it ended without a result.
        """
        self.check(settings)
        run, race = self.runs.begin(session, settings), self.make_race(settings)
        trace: dict[str, Any] | None = None
        due_s = 0.0
        if run.start(race):
            with contextlib.closing(self._updates(run, race)) as batches:
                for updates in batches:
                    trace = next((update["trace"] for update in updates if update["kind"] == "result"), trace)
                    if time.monotonic() > due_s:  # and no oftener: whoever waits for the trace is told nothing by it
                        due_s = time.monotonic() + SIGN_OF_LIFE_S
                        yield None
        if trace is None:
            raise StoppedError("The race was stopped before it had a result.")
        yield trace

    def _updates(self, run: Run, race: RaceLike) -> Generator[list[Update]]:
        """What the race says; an empty list when it has been silent for SIGN_OF_LIFE_S."""
        spoke_s = time.monotonic()
        try:
            with contextlib.closing(race.run()) as batches:  # type: ignore[type-var]  # a generator
                for updates in batches:
                    if updates or time.monotonic() - spoke_s > SIGN_OF_LIFE_S:
                        spoke_s = time.monotonic()
                        yield [for_visitors(update) for update in updates]
        finally:
            run.finish()

    def _explained(self, update: Update) -> Update:
        """The race's first update says, in words, how the two sides' numbers compare."""
        return update | {"precision": self.precision(update["settings"])} if update["kind"] == "race" else update

    def stop(self, session: str) -> Payload | None:
        """Stop was pressed; a race that still waits in the queue leaves it."""
        run = self.runs.of_session(session)
        return run.payload({"kind": "leave"}) if run is not None and run.stop() else None

    def leave(self, request: gr.Request) -> None:
        """The tab was closed."""
        self.runs.leave(session_of(request))

    def resync(self, asked: Any) -> list[Payload]:
        """Payloads of a run from a number on, for a page that missed some; none of a run that is not kept."""
        run, seq = self._asked_run(asked), asked.get("from_seq", 0) if isinstance(asked, Mapping) else 0
        return run.since(seq) if run is not None and isinstance(seq, int) else []

    def trace(self, asked: Any) -> dict[str, Any] | None:
        """The trace of a finished run, while it is kept."""
        run = self._asked_run(asked)
        return run.trace if run is not None else None

    def _asked_run(self, asked: Any) -> Run | None:
        """`asked` is whatever the page sent."""
        run_id = asked.get("run") if isinstance(asked, Mapping) else None
        return self.runs.of_id(run_id) if isinstance(run_id, str) else None


def session_of(request: gr.Request) -> str:
    return str(request.session_hash)
