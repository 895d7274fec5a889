"""`Race`: one click of the button, from settings to a trace, as a stream of small updates."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator
from typing import Any

from eet_demo.declared import LIMIT_VARIABLE
from eet_demo.errors import StoppedError
from eet_demo.models import catalog
from eet_demo.race import parity
from eet_demo.race.background import measure_between_races
from eet_demo.race.fetching import Fetching
from eet_demo.race.fits import Residency, decide
from eet_demo.race.inputs import RaceModel, prompt_ids
from eet_demo.race.job import LaneJob, StopSign, Update, Waiting
from eet_demo.race.lane import Lane
from eet_demo.race.resources import RaceResources
from eet_demo.race.schedule import at_once, in_turn, together
from eet_demo.race.setup import new_record, side_options, thread_notes
from eet_demo.records import RaceSettings, as_json
from eet_demo.results.metrics import figures
from eet_demo.results.software import software_versions
from eet_demo.results.trace import Trace
from eet_demo.sides.pairing import compared_pair, shown
from eet_demo.sides.side import RunRequest, SideOptions

TICK_S = 0.05
ABANDON_S = 1.0


class Race:
    """One race. `run` may be iterated once; `stop` may come from any thread at any moment."""

    def __init__(self, settings: RaceSettings, resources: RaceResources) -> None:
        self._settings = settings
        self._resources = resources
        self._stop = StopSign()
        self._updates: list[Update] = []
        self._notes: list[str] = []
        self._told_notes: int | None = None  # None until the page knows of the race
        self._told_state: tuple[str, str] | None = None
        self._lanes: list[Lane] = []
        self._model: RaceModel | None = None

    def stop(self) -> None:
        """Asks every side to stop; `run` still ends with a result, of what there is."""
        self._stop.set()

    def run(self) -> Iterator[list[Update]]:
        """Yields a list of updates (may be empty) every TICK_S; the last list ends with the result.

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
        while not self._resources.turn.acquire(timeout=TICK_S):
            if self._stop.is_set():
                return
            self._post_states("waiting", "another race is on this machine")
            yield self._take()
        try:
            due_s = time.perf_counter()
            end_s = due_s + self._resources.limits.race_seconds
            for _ in self._steps():
                if due_s > end_s and not self._stop.is_set():
                    self._out_of_time()
                yield self._take()
                due_s = max(due_s + TICK_S, time.perf_counter())
                time.sleep(max(0.0, due_s - time.perf_counter()))
            yield self._take()
        finally:
            self._abandon()
            self._resources.turn.release()
            measure_between_races(self._settings, self._model, self._resources)

    def _out_of_time(self) -> None:
        limit = f"{self._resources.limits.race_seconds:,} seconds ({LIMIT_VARIABLE}RACE_SECONDS)"
        self._stop.end(f"out of time: a race may take {limit} here")
        self._notes.append(self._stop.why)
        if self._model is None:
            raise StoppedError(f"The model was not here in time: a race may take {limit} here, and it is fetched on.")

    def _steps(self) -> Waiting:
        model = yield from self._open_model()
        if model is None:
            return
        self._model = model
        prompts = prompt_ids(self._settings, model)
        request = self._request(prompts, model)
        self._notes += model.notes + thread_notes(self._settings, self._resources.threads)
        known = self._resources.stock_dtypes
        note = known.note(self._settings) if known is not None else None
        self._notes += [note] if note is not None else []
        self._lanes = self._build_lanes(request, model)
        self._resources.pool.retain([lane.options for lane in self._lanes])
        self._post_race(model, prompts)
        yield from at_once(lane.start_process() for lane in self._lanes)
        residency = self._decide()
        if self._settings.schedule == "together":
            yield from together(self._lanes)
        else:
            yield from in_turn(self._lanes, residency.resident)
        rows = yield from self._parity(request, model)
        self._post_result(self._trace(model, prompts, rows))

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

    def _request(self, prompts: list[list[int]], model: RaceModel) -> RunRequest:
        stop_ids = model.end_ids if self._settings.free_running else ()
        rows = tuple(tuple(row) for row in prompts)
        return RunRequest(rows, self._settings.new_tokens, self._settings.sampling, stop_ids)

    def _build_lanes(self, request: RunRequest, model: RaceModel) -> list[Lane]:
        job = LaneJob(
            request,
            self._resources.pool,
            lambda update: self._updates.append(update),
            self._stop,
            self._resources.gpu,
            same_warm_up=self._settings.device == "cuda",
        )
        return [
            Lane(index, self._side_options(name, model), job, new_record(name, request, model))
            for index, name in enumerate(self._settings.sides)
        ]

    def _side_options(self, name: str, model: RaceModel) -> SideOptions:
        resources = self._resources
        return side_options(name, self._settings, model, resources.threads)

    def _decide(self) -> Residency:
        residency = decide(self._lanes, self._resources.available_on(self._settings.device))
        self._notes += residency.notes
        for index, error in residency.refused.items():
            self._lanes[index].fail(error)
        return residency

    def _parity(self, request: RunRequest, model: RaceModel) -> Generator[None, None, list[dict[str, Any]] | None]:
        """Per row; None when sampling, with one side, between random weights, or when a side has no tokens."""
        sides = self._settings.sides
        pair = compared_pair(sides)
        if pair is None or not request.sampling.greedy or not model.same_weights(sides[pair[0]], sides[pair[1]]):
            return None
        return (
            yield from parity.compare_lanes(
                self._lanes[pair[0]], self._lanes[pair[1]], request, self._stop, self._notes
            )
        )

    def _trace(self, model: RaceModel, prompts: list[list[int]], rows: list[dict[str, Any]] | None) -> Trace:
        return {
            "format": "eet-race",
            "version": 1,
            "settings": as_json(self._settings),
            "hardware": as_json(self._resources.hardware),
            "software": software_versions(),
            "prompt_ids": prompts,
            "prompt_text": model.text(prompts[0]),
            "notes": list(self._notes),
            "sides": [lane.record.as_json() for lane in self._lanes],
            "parity": rows,
        }

    def _post_race(self, model: RaceModel, prompts: list[list[int]]) -> None:
        self._post(
            kind="race",
            settings=as_json(self._settings),
            hardware=as_json(self._resources.hardware),
            software=software_versions(),
            prompt_tokens=prompts,
            prompt_text=model.text(prompts[0]),
            kinds=as_json(shown(self._settings.sides)),
            pair=compared_pair(self._settings.sides),
            notes=list(self._notes),
        )
        self._told_notes = len(self._notes)

    def _post_result(self, trace: Trace) -> None:
        self._told_notes = len(self._notes)
        self._post(kind="result", trace=trace, **figures(trace))

    def _post(self, **update: Any) -> None:
        self._updates.append(update)

    def _post_states(self, state: str, detail: str) -> None:
        """Every side's state; nothing while the words stay the same, however often it is called."""
        if (state, detail) == self._told_state:
            return
        self._told_state = state, detail
        for index in range(len(self._settings.sides)):
            self._post(kind="state", side=index, state=state, detail=detail)

    def _take(self) -> list[Update]:
        if self._told_notes is not None and self._told_notes < len(self._notes):
            self._post(kind="notes", notes=list(self._notes))
            self._told_notes = len(self._notes)
        updates, self._updates = self._updates, []
        return updates

    def _abandon(self) -> None:
        """After the end nothing; after a closed iterator, workers that still run are stopped, then killed."""
        deadline_s = time.perf_counter() + ABANDON_S
        for lane in self._lanes:
            lane.ask_to_stop()
        for lane in self._lanes:
            lane.abandon(deadline_s)
