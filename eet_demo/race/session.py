"""What a race and a benchmark are both made of: the sides of one request on this machine, from processes to figures."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator
from typing import Any

from eet_demo.errors import EetError, MemoryPlanError, WorkerError
from eet_demo.machine.cpu_use import CpuTimes, OthersUse, others_use
from eet_demo.race import parity
from eet_demo.race.inputs import RaceModel, prompt_ids
from eet_demo.race.lane import Lane, LaneJob
from eet_demo.race.report import Update
from eet_demo.race.residents import Claim
from eet_demo.race.resources import RaceResources
from eet_demo.race.waiting import StopSign, Waiting, at_once
from eet_demo.records import RaceSettings, as_json
from eet_demo.results.record import RowTexts, SideRecord
from eet_demo.results.software import software_versions
from eet_demo.sides.names import parse_side
from eet_demo.sides.pairing import compared_pair
from eet_demo.sides.side import RunRequest, SideOptions
from eet_demo.worker.handle import WorkerHandle

ABANDON_NS = 1_000_000_000


class Session:
    """The sides of one request. Used while the turn is held: `open`, `decide`, runs of `lanes`, `parity`, `release`.

    `notes` is what must be said beside the figures; it grows on the way.
    """

    def __init__(
        self,
        settings: RaceSettings,
        model: RaceModel,
        resources: RaceResources,
        stop: StopSign,
        post: Callable[[Update], None] = lambda update: None,
        full_warm_up: bool = False,
        keep_others: bool = False,
    ) -> None:
        """Raises RequestError for a request that the model cannot serve; starts nothing.

        Args:
            stop: set when it shall end early; may be set from any thread.
            post: takes updates for the page.
            full_warm_up: warm up with the whole prompt however long.
            keep_others: leaves the pool as it finds it, for a measurement between races.
        """
        self.settings, self.model = settings, model
        rows = prompt_ids(settings, model)
        self.prompts = [list(row) for row in rows]  # JSON has lists
        stop_ids = model.end_ids if settings.free_running else ()
        self.request = RunRequest(rows, settings.new_tokens, settings.sampling, stop_ids)
        self.notes = model.notes + thread_notes(settings, resources.threads)
        self._resources, self._stop, self._keep_others = resources, stop, keep_others
        self._found_there: list[Lane] = []
        self._stay = False
        self._others: dict[str, list[OthersUse]] = {}
        job = LaneJob(
            self.request,
            resources.pool,
            self._make_room,
            post,
            stop,
            resources.clock,
            full_warm_up,
            same_warm_up=settings.device == "cuda",
        )
        self.lanes = [
            Lane(index, side_options(name, settings, model, resources.threads), job, self.new_record(name))
            for index, name in enumerate(settings.sides)
        ]

    def new_record(self, name: str) -> SideRecord:
        """An empty record for one run of a side."""
        request, model = self.request, self.model
        texts = RowTexts(
            len(request.prompt_ids), request.new_tokens, model.new_decoder, model.end_ids, request.stop_token_ids
        )
        return SideRecord(name, texts)

    def conditions(self) -> dict[str, Any]:
        """What figures of this session hold for."""
        return {
            "settings": as_json(self.settings),
            "hardware": as_json(self._resources.hardware),
            "software": software_versions(),
        }

    def open(self) -> Waiting:
        """A bare process for every side; nothing else loads beside them from here on."""
        pool = self._resources.pool
        if self._keep_others:
            self._found_there = [lane for lane in self.lanes if pool.has(lane.options)]
            yield from self._settle()
        else:
            pool.retain([lane.options for lane in self.lanes])
        yield from at_once(lane.start_process() for lane in self.lanes)

    def decide(self) -> None:
        """Who can run here, and whether all stay in memory: fails lanes that cannot run even alone, notes the rest.

        Raises:
            EetError: no side can run here, or `together` is asked for sides that do not fit together.
        """
        able = [lane for lane in self.lanes if not lane.over]
        claims: dict[int, Claim] = {}
        refused: dict[int, EetError] = {}
        for lane in able:
            try:
                claims[lane.index] = lane.claim()
            except EetError as error:
                refused[lane.index] = error
        refused |= self._resources.residents.too_large(claims)
        if refused and len(refused) == len(able):
            raise next(iter(refused.values()))
        for index, reason in refused.items():
            self.lanes[index].fail(reason)
        lack = self._resources.residents.lack([claims[index] for index in claims if index not in refused])
        if lack is None:
            return
        if self.settings.schedule == "together":
            raise MemoryPlanError(
                f"{lack}, so they cannot race at once here. Choose the schedule in_turn, where one is unloaded before "
                "the other is loaded, or a smaller model, context or batch."
            )
        self.notes.append(f"{lack}: each is loaded for its turn and unloaded before the other")

    def in_turn(self) -> Waiting:
        """One after the other, in the order of the settings, each alone on the machine."""
        for later in self.lanes[1:]:
            later.wait_for("waits, so that each side has the machine alone")
        for lane in self.lanes:
            yield from lane.prepare()
            yield from self.time(lane)

    def together(self) -> Waiting:
        """Loads and warms one after the other, then times all at once: their figures share the hardware."""
        self._stay = True
        for lane in self.lanes:
            yield from lane.prepare()
            lane.wait_for("ready; both start at once")
        yield from self.time(*self.lanes)
        self._stay = False

    def time(self, *lanes: Lane) -> Waiting:
        """The timed runs of `lanes`, at once; with each, what others took of the processors meanwhile."""
        before = self._read_cpu()
        yield from at_once(lane.race() for lane in lanes)
        after = self._read_cpu()
        if before is None or after is None:
            return
        use = others_use(before, after)
        for lane in lanes:
            lane.record.others = use
        self._others.setdefault(" and ".join(lane.options.side for lane in lanes), []).append(use)

    def note_others(self) -> None:
        """Adds a note for every side whose runs, taken together, had to share the processors."""
        for sides, uses in self._others.items():
            use = OthersUse.total(uses)
            self.notes += [use.words(sides)] if use.worth_saying else []

    def parity(self) -> Generator[None, None, list[dict[str, Any]] | None]:
        """Per row, of each side's last run; None when sampling, with one side, between random weights or no tokens."""
        sides = self.settings.sides
        pair = compared_pair(sides)
        if pair is None or not self.request.sampling.greedy:
            return None
        if not self.model.same_weights(sides[pair[0]], sides[pair[1]]):
            return None
        baseline, contender = (self.lanes[index] for index in pair)
        return (yield from parity.compare_lanes(baseline, contender, self.request, self._stop, self.notes))

    def release(self) -> None:
        """Lets go of every worker, whatever happens with another: kept for the next race, or ended if it still runs."""
        deadline_ns = self._resources.clock.now_ns() + ABANDON_NS
        with contextlib.ExitStack() as stack:
            for lane in self.lanes:
                keep = not self._keep_others or lane in self._found_there
                stack.callback(lane.abandon, deadline_ns, keep)
            for lane in self.lanes:
                stack.callback(lane.ask_to_stop)

    def reload(self) -> None:
        """Begins to load anew what Stop had to end, for the next race, as far as there is room."""
        for lane in self.lanes:
            if lane.lost_to_stop:
                self._resources.residents.preload([lane.options])

    def _read_cpu(self) -> CpuTimes | None:
        read, pool = self._resources.read_cpu, self._resources.pool
        return read([handle.pid for handle in pool.handles]) if read is not None else None

    def _make_room(self, lane: Lane) -> None:
        others = [other.handle for other in self.lanes if other is not lane and other.handle is not None]
        self._resources.residents.grant([lane.claim()], () if self._stay else others)

    def _settle(self) -> Waiting:
        """Waits for loads that were begun for a race to come: they must not go on beside a measurement."""
        for handle in self._resources.pool.handles:
            while handle.alive and handle.loading and not self._stop.is_set():
                if not self._still_loads(handle):
                    self._resources.pool.kill(handle)
                yield

    def _still_loads(self, handle: WorkerHandle) -> bool:
        try:
            return not any(event["event"] == "error" for event in handle.poll())
        except WorkerError:
            return False


def preload(settings: RaceSettings, model: RaceModel, resources: RaceResources) -> None:
    """Begins to load the workers of a race to come, unless one is running or they do not all fit; returns at once."""
    if not resources.turn.acquire(blocking=False):
        return
    try:
        wanted = [side_options(name, settings, model, resources.threads) for name in settings.sides]
        resources.residents.preload(wanted)
    finally:
        resources.turn.release()


def side_options(name: str, settings: RaceSettings, model: RaceModel, threads: int) -> SideOptions:
    """What the side called `name` is built from: exactly as large as this race needs."""
    scripted = parse_side(name).kind.scripted
    return SideOptions(
        side=name,
        model_path="" if scripted else str(model.path),
        device=settings.device,
        dtype=settings.dtype,
        weights=settings.weights,
        threads=min(threads, settings.threads or threads),
        max_batch=settings.batch,
        max_context=settings.context + settings.new_tokens,
    )


def thread_notes(settings: RaceSettings, threads: int) -> list[str]:
    """What a request for more threads than can run at once comes to, in words."""
    if settings.threads is None or settings.threads <= threads:
        return []
    return [f"{settings.threads} threads were asked for; {threads} can run at once here, and every side uses those"]
