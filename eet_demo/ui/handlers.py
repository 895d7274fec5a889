"""What the page's events do. Lower layers raise; here an error becomes words on the page, and the next race works."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import gradio as gr

from eet_demo.errors import EetError
from eet_demo.records import RaceSettings
from eet_demo.ui.runs import Payload, RaceLike, Run, Runs, Update

LOGGER = logging.getLogger(__name__)

SIGN_OF_LIFE_S = 0.25
"""Longest silence of a running race: Gradio closes the generator of a visitor who left only between two yields."""

QUEUED_WORDS = "Waiting for the machine"
RACING_WORDS = "Racing"
STOPPING_WORDS = "Stopping"
READY_WORDS = "Ready"

MakeRace = Callable[[RaceSettings], RaceLike]


def error_update(error: Exception) -> Update:
    """An error as one update for the page. An unforeseen one is logged with its trace and shown by name."""
    if isinstance(error, EetError):
        message, remedy = str(error), error.remedy
    else:
        LOGGER.error("a race failed unexpectedly", exc_info=error)
        message, remedy = (
            f"Something unforeseen failed: {type(error).__name__}: {error}",
            "The server's log has the details.",
        )
    return {"kind": "error", "message": message, "remedy": remedy}


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
        return run, run.payload({"kind": "queued", "sides": list(settings.sides)}, {"kind": "go"})

    def drain(self, run: Run) -> Iterator[Payload]:
        """Runs a race and yields the stage's values, at least one every SIGN_OF_LIFE_S."""
        try:
            assert run.settings is not None
            race = self.make_race(run.settings)
            if not run.start(race):
                race.stop()
            spoke_s = time.monotonic()
            with contextlib.closing(race.run()) as batches:  # type: ignore[type-var]  # a generator
                for updates in batches:
                    if updates or time.monotonic() - spoke_s > SIGN_OF_LIFE_S:
                        spoke_s = time.monotonic()
                        yield run.payload(*map(self._explained, updates))
        except Exception as error:  # as above; GeneratorExit of a visitor who left is no Exception
            yield run.payload(error_update(error))
        yield run.payload({"kind": "end"})

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

    def resync(self, asked: Mapping[str, Any]) -> list[Payload]:
        """Payloads of a run from a number on, for a page that missed some."""
        run = self.runs.of_id(str(asked.get("run")))
        return run.since(int(asked.get("from_seq", 0))) if run is not None else []

    def trace(self, asked: Mapping[str, Any]) -> dict[str, Any] | None:
        """The trace of a finished run, while it is kept."""
        run = self.runs.of_id(str(asked.get("run")))
        return run.trace if run is not None else None


def session_of(request: gr.Request) -> str:
    return str(request.session_hash)
