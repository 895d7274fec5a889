"""`Race`: one click of the button, from settings to a trace, as a stream of small updates."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

from eet_demo.declared import LIMIT_VARIABLE
from eet_demo.errors import StoppedError
from eet_demo.models import catalog
from eet_demo.models.resolve import resolve
from eet_demo.race.background import measure_between_races
from eet_demo.race.inputs import RaceModel
from eet_demo.race.report import Update
from eet_demo.race.resources import RaceResources
from eet_demo.race.session import Session
from eet_demo.race.waiting import StopSign, Waiting, paced
from eet_demo.records import RaceSettings, as_json
from eet_demo.results.metrics import figures
from eet_demo.results.trace import Trace
from eet_demo.sides.pairing import compared_pair, shown


class Race:
    """One race. `run` may be iterated once; `stop` may come from any thread at any moment."""

    def __init__(self, settings: RaceSettings, resources: RaceResources) -> None:
        self._settings = settings
        self._resources = resources
        self._stop = StopSign()
        self._updates: list[Update] = []
        self._told_state = ("", "")
        self._session: Session | None = None
        self._told_notes: int | None = None  # None until the page knows of the race

    def stop(self) -> None:
        """Asks every side to stop; `run` still ends with a result, of what there is."""
        self._stop.set()

    def run(self) -> Iterator[list[Update]]:
        """Yields a list of updates (may be empty) about 20 times a second; the last update is the result.

        `race` comes first, but for states while another race runs or the model is fetched. What is found out later
        (which side fits in memory, ...) comes as `notes`, always all of them; stopped before it has a model, a race
        has no result.

        What stops one side alone is an `error` update. Closing the iterator stops the workers within 2 s. So does the
        end of its time, which begins with its turn: the result is of what there is then.

        Raises:
            EetError: the race cannot begin: a bad request, an unknown model or one that is not here in time, no side
                that fits in memory.
        """
        self._resources.check(self._settings)
        if self._resources.background is not None:
            self._resources.background.give_way()
        with contextlib.closing(paced(self._in_its_turn(), self._resources.clock)) as ticks:
            for _ in ticks:
                yield self._take()
        yield self._take()

    def _in_its_turn(self) -> Waiting:
        """Waits for the machine, races, and frees the machine whatever has happened."""
        resources = self._resources
        while not resources.turn.acquire(blocking=False):
            if self._stop.is_set():
                return
            self._post_states("waiting", "another race is on this machine")
            yield
        with contextlib.ExitStack() as then:  # backwards, each of them even if another fails
            then.callback(self._measure_later)
            then.callback(resources.turn.release)
            yield from self._in_time(self._steps(then))
            yield  # the result goes out before workers are waited for

    def _in_time(self, steps: Waiting) -> Waiting:
        """The same steps; once the time of a race is up they are told to come to an end."""
        limit_s, clock = self._resources.limits.race_seconds, self._resources.clock
        end_ns = clock.now_ns() + limit_s * 10**9
        limit = f"a race may take {limit_s:,} seconds ({LIMIT_VARIABLE}RACE_SECONDS) here"
        with contextlib.closing(steps):
            for _ in steps:
                if clock.now_ns() > end_ns and not self._stop.is_set():
                    self._stop.end(f"out of time: {limit}")
                    if self._session is None:
                        raise StoppedError(f"The model was not here in time: {limit}, and it is fetched on.")
                    self._session.notes.append(self._stop.why)
                yield

    def _steps(self, then: contextlib.ExitStack) -> Waiting:
        model = yield from self._open_model()
        if model is None:
            return
        session = Session(self._settings, model, self._resources, self._stop, lambda update: self._post(**update))
        self._session = session
        then.callback(session.reload)
        then.callback(session.release)
        known = self._resources.stock_dtypes
        note = known.note(self._settings) if known is not None else None
        session.notes += [note] if note is not None else []
        self._post_race(session)
        yield from session.open()
        session.decide()
        yield from session.together() if self._settings.schedule == "together" else session.in_turn()
        session.note_others()
        rows = yield from session.parity()
        self._post_result(session, rows)

    def _open_model(self) -> Generator[None, None, RaceModel | None]:
        """The race's model, fetched first where it is not on this machine; Stop leaves the download to itself: None."""
        name, resources = self._settings.model, self._resources
        folder = catalog.local_folder(name, resources.models_dir)
        if folder is None:
            fetching = Fetching(name, resources.models_dir, resources.hub_enabled)
            while (folder := fetching.folder()) is None:
                if self._stop.is_set():
                    self._post_states("stopped", f"stopped by the visitor; {fetching.progress}, in the background")
                    return None
                self._post_states("loading", fetching.progress)
                yield
        return resources.model(folder)

    def _measure_later(self) -> None:
        self._resources.raced_ns = self._resources.clock.now_ns()
        if self._session is not None:
            measure_between_races(self._settings, self._session.model, self._resources)

    def _post_race(self, session: Session) -> None:
        self._told_notes = len(session.notes)
        self._post(
            kind="race",
            **session.conditions(),
            prompt_tokens=session.prompts,
            prompt_text=session.model.text(session.prompts[0]),
            kinds=as_json(shown(self._settings.sides)),
            pair=compared_pair(self._settings.sides),
            notes=list(session.notes),
        )

    def _post_result(self, session: Session, rows: list[dict[str, Any]] | None) -> None:
        trace = {
            "format": "eet-race",
            "version": 1,
            **session.conditions(),
            "prompt_ids": session.prompts,
            "prompt_text": session.model.text(session.prompts[0]),
            "notes": list(session.notes),
            "sides": [lane.record.as_json() for lane in session.lanes],
            "parity": rows,
        }
        self._told_notes = len(session.notes)
        self._post(kind="result", trace=trace, **figures(trace))

    def _post(self, **update: Any) -> None:
        self._updates.append(update)

    def _post_states(self, state: str, detail: str) -> None:
        """The state of all sides, said once: a page counts the seconds from when it came."""
        if (state, detail) == self._told_state:
            return
        self._told_state = (state, detail)
        for index in range(len(self._settings.sides)):
            self._post(kind="state", side=index, state=state, detail=detail)

    def _take(self) -> list[Update]:
        notes = self._session.notes if self._session is not None else []
        if self._told_notes is not None and self._told_notes < len(notes):
            self._post(kind="notes", notes=list(notes))
            self._told_notes = len(notes)
        updates, self._updates = self._updates, []
        return updates


def result_of(batches: Iterator[list[Update]], told: Callable[[Update], None] = lambda update: None) -> Trace:
    """Runs a race (its `run()`) to the end and returns its trace; `told` gets every other update.

    Raises:
        EetError: the race could not begin, or ended without a result.
    """
    trace: Trace | None = None
    for updates in batches:
        for update in updates:
            if update["kind"] == "result":
                trace = update["trace"]
            else:
                told(update)
    if trace is None:
        raise StoppedError("The race was stopped before it had a result.")
    return trace


class Fetching:
    """Fetches a model in a thread of its own; the download itself resumes, so that nobody need wait for its end."""

    def __init__(self, model: str, models_dir: Path, hub_enabled: bool) -> None:
        self.progress = f"fetching {model}"
        self._model, self._models_dir, self._hub_enabled = model, models_dir, hub_enabled
        self._folder: Path | None = None
        self._error: BaseException | None = None
        threading.Thread(target=self._fetch, name=f"fetch {model}", daemon=True).start()

    def folder(self) -> Path | None:
        """The model's folder once it is here, None before; raises what the fetch raised."""
        if self._error is not None:
            raise self._error
        return self._folder

    def _fetch(self) -> None:
        try:
            self._folder = resolve(self._model, self._models_dir, self._hub_enabled, self._report)
        except BaseException as error:  # handed to the race's own thread
            self._error = error

    def _report(self, stage: str, done: int, total: int) -> None:
        if stage == "wait":
            holder = f"process {done}" if done else "another process"
            self.progress = f"waiting for {holder}, which fetches {self._model}"
            return
        percent = f" {100 * done // total} %" if total else ""
        self.progress = f"fetching {self._model}: {stage}{percent}"
