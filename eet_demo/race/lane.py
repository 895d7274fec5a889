"""One side in one race: drives its worker from a bare process to the last token, and answers for its faults.

Every step is a generator that yields whenever it waits; the session decides who advances.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass

from eet_demo import errors
from eet_demo.clock import Clock
from eet_demo.errors import EetError, KernelFaultError, WorkerError
from eet_demo.race.report import SideReport, Update
from eet_demo.race.residents import Claim
from eet_demo.race.waiting import Halted, StopSign, Waiting, listen
from eet_demo.records import as_json
from eet_demo.results.record import SideRecord
from eet_demo.sides import build
from eet_demo.sides.names import parse_side
from eet_demo.sides.side import RunRequest, SideOptions
from eet_demo.worker.handle import WorkerHandle
from eet_demo.worker.outbox import Message
from eet_demo.worker.pool import WorkerPool

WARM_UP_TOKENS = 64
WARM_UP_PROMPT_TOKENS = 1024
WORTH_A_PHASE_S = 0.2


@dataclass(frozen=True)
class LaneJob:
    """What every lane of one race shares.

    Args:
        make_room: asked before a lane loads or runs; ends other workers where it must. Raises MemoryPlanError.
        post: takes one update for the page.
        stop: set once the race is to end: Stop was pressed, or its time is up.
        full_warm_up: warm up with the whole prompt however long; else at most WARM_UP_PROMPT_TOKENS of each row.
        same_warm_up: warm up with the very request: on a GPU, graphs and compiled code are made for its lengths.
    """

    request: RunRequest
    pool: WorkerPool
    make_room: Callable[[Lane], None]
    post: Callable[[Update], None]
    stop: StopSign
    clock: Clock
    full_warm_up: bool = False
    same_warm_up: bool = False

    def warm_up_request(self) -> RunRequest:
        """The run before the clock starts: the same rows, at most WARM_UP_TOKENS new tokens unless `same_warm_up`."""
        longest = None if self.full_warm_up or self.same_warm_up else WARM_UP_PROMPT_TOKENS
        prompts = tuple(row[:longest] for row in self.request.prompt_ids)
        new_tokens = self.request.new_tokens if self.same_warm_up else min(WARM_UP_TOKENS, self.request.new_tokens)
        return RunRequest(prompts, new_tokens, self.request.sampling)


class Lane:
    """One side's way through a race. `record` holds what was measured; `over` is set once it failed or was stopped."""

    def __init__(self, index: int, options: SideOptions, job: LaneJob, record: SideRecord) -> None:
        self.index = index
        self.options = options
        self.over = False
        self.error: EetError | None = None
        self.lost_to_stop = False
        self.handle: WorkerHandle | None = None
        self._job = job
        self._report = SideReport(index, record, job.post, job.clock)
        self._kind = parse_side(options.side).kind
        self._needed_bytes: int | None = None
        self._ended_words = ""

    @property
    def record(self) -> SideRecord:
        return self._report.record

    @property
    def base_bytes(self) -> int | None:
        """Resident bytes of the worker before any weights; None while it is not known."""
        return self.handle.base_bytes if self.handle is not None else None

    @property
    def resident(self) -> bool:
        """True while the worker holds the weights."""
        return self.handle is not None and self.handle.alive and self.handle.loaded

    def claim(self) -> Claim:
        """The memory this side needs here. Raises EetError for a model that cannot be planned."""
        if self._needed_bytes is None:
            self._needed_bytes = build.side_bytes(self.options)
        return Claim(self.options, self._needed_bytes, self.handle)

    def start_process(self) -> Waiting:
        """A worker with its libraries imported and nothing loaded; `base_bytes` is known afterwards."""
        yield from self._guarded(self._start_process())

    def prepare(self) -> Waiting:
        """Weights in memory and warm-up done."""
        yield from self._guarded(self._prepare())

    def race(self) -> Waiting:
        """The timed run."""
        yield from self._guarded(self._race())

    def ask_logits(
        self, prefixes: Sequence[Sequence[int]], ids: Sequence[Sequence[int]]
    ) -> Generator[None, None, list[list[float]]]:
        """The side's logits of `ids[i]` after `prefixes[i]`; loads it again if it is gone. Raises EetError."""
        answer = yield from self._question({"cmd": "logits", "ids": prefixes, "token_ids": ids})
        values: list[list[float]] = answer["values"]
        return values

    def ask_roofline(self, context: int, batch: int) -> Generator[None, None, Message]:
        """`bytes_per_step`, and `bandwidth_gb_s` if the side can measure its own threads. Raises EetError."""
        return (yield from self._question({"cmd": "roofline", "context": context, "batch": batch}))

    def renew(self, record: SideRecord) -> None:
        """Measures into `record` from now on: another run of the same side."""
        self._report.record = record

    def wait_for(self, detail: str) -> None:
        """Says on the page what this lane waits for."""
        if not self.over:
            self._report.state("waiting", detail)

    def fail(self, error: EetError) -> None:
        """This side does not run any further, and why. The worker stays only if it holds its weights."""
        self.over, self.error = True, error
        self._report.error(error)
        if self.handle is not None and not self.resident:
            self._discard()

    def ask_to_stop(self) -> None:
        """Tells a busy worker to stop and waits for nothing; `abandon` follows."""
        if self.handle is not None and self.handle.busy:
            self.handle.send({"cmd": "stop"})

    def abandon(self, deadline_ns: int, keep: bool = True) -> None:
        """The race is over: lets go of the worker, killing one that still runs after `deadline_ns`.

        Args:
            keep: for another race; only one that is sound and has its weights.
        """
        handle, clock = self.handle, self._job.clock
        if handle is None:
            return
        try:
            while handle.busy and clock.now_ns() < deadline_ns:
                handle.poll()
                clock.sleep(0.01)
        except WorkerError:
            keep = False
        if keep and handle.loaded and handle.sound and not handle.busy:
            handle.taken = False
        else:
            self._discard()

    def _guarded(self, steps: Waiting) -> Waiting:
        """Runs `steps` unless the lane is over; Stop and errors end this lane alone."""
        if self.over:
            return
        try:
            if self._job.stop.is_set():
                raise Halted()
            yield from steps
        except Halted:
            self.over = True
            self._report.state("stopped", "; ".join(filter(None, (self._job.stop.why, self._ended_words))))
        except EetError as error:
            self.fail(error)

    def _start_process(self) -> Waiting:
        if self.handle is None or not self.handle.alive:
            self.handle = self._job.pool.acquire(self.options)
        if self.handle.base_bytes is None:
            self._report.state("loading", "starting a process of its own")
            yield from self._wait("imported")
        if self.handle.loading:
            # Begun before this race, it must not go on beside another side's clock.
            yield from self._load_weights(self.handle)

    def _prepare(self) -> Waiting:
        yield from self._load()
        yield from self._warm_up()

    def _load(self) -> Waiting:
        yield from self._start_process()
        self._job.make_room(self)
        handle = self._worker()
        if not handle.loaded:
            yield from self._load_weights(handle)
        self._report.config(handle.config)
        self._sample_memory()

    def _load_weights(self, handle: WorkerHandle) -> Waiting:
        now_ns = self._job.clock.now_ns
        begin_ns = now_ns()
        compiles = "; kernels are compiled first, once a machine" if self._kind.compiles else ""
        self._report.state("loading", f"loading {self.options.dtype} weights{compiles}")
        handle.load()
        if handle.compiled_s is None:
            yield from self._wait("compiled")
        if handle.compiled_s is not None and handle.compiled_s > WORTH_A_PHASE_S:
            loading_ns = now_ns()
            self.record.phase("compiling", begin_ns, loading_ns)
            begin_ns = loading_ns
        if not handle.loaded:
            yield from self._wait("loaded")
        self.record.phase("loading", begin_ns, now_ns())

    def _warm_up(self) -> Waiting:
        handle, request = self._worker(), self._job.warm_up_request()
        shape = (request.new_tokens, *map(len, request.prompt_ids))
        begin_ns = self._job.clock.now_ns()
        if shape in handle.warmed:
            self.record.phase("warm-up", begin_ns, begin_ns, "skipped: this worker has already run these shapes")
            return
        detail = f"{request.new_tokens} tokens before the clock starts"
        if len(request.prompt_ids[0]) < len(self._job.request.prompt_ids[0]):
            detail += f", after the first {WARM_UP_PROMPT_TOKENS} of the prompt"
        self._report.state("warming", detail)
        yield from self._ask({"cmd": "run", "request": as_json(request), "warm_up": True}, "finished")
        handle.warmed.add(shape)
        self.record.phase("warm-up", begin_ns, self._job.clock.now_ns(), detail)

    def _race(self) -> Waiting:
        self._report.state("prefilling", "reading the prompt")
        try:
            yield from self._ask({"cmd": "run", "request": as_json(self._job.request), "warm_up": False}, "finished")
        finally:
            self._sample_memory(unique=True)
            self.record.finish(self._job.clock.now_ns())
        self._report.state("done", "finished")

    def _question(self, command: Message) -> Generator[None, None, Message]:
        """Asks a side that has run, outside any clock; Stop is an EetError here."""
        try:
            yield from self._load()
            return (yield from self._ask(command, command["cmd"]))
        except Halted:
            raise EetError(f"{self.options.side} was stopped before it had answered") from None

    def _ask(self, command: Message, answer: str) -> Generator[None, None, Message]:
        self._worker().send(command)
        return (yield from self._wait(answer))

    def _wait(self, wanted: str) -> Generator[None, None, Message]:
        """Waits for the worker, booking every event and sampling memory on the way.

        Raises:
            EetError: the worker reported an error, died or hangs; one that cannot be trusted any more was ended.
            Halted: the race is to end; the worker has stopped, or was ended.
        """
        try:
            return (yield from listen(self._worker(), wanted, self._hear, self._job.stop, self._job.clock))
        except Halted as halted:
            # Stock cannot hear inside its prefill; nobody can inside a load.
            if halted.deaf:
                self.lost_to_stop = True
                self._ended_words = self._kind.deaf if wanted == "finished" and not self.record.tokens["row"] else ""
                self._discard()
            raise
        except (KernelFaultError, WorkerError):
            self._discard()
            raise

    def _hear(self, events: Sequence[Message]) -> None:
        for event in events:
            if event["event"] == "error":
                error_class = getattr(errors, event["type"], EetError)
                raise error_class(event["message"])
            self._report.event(event)
        if self._report.memory_is_due:
            self._sample_memory()

    def _sample_memory(self, unique: bool = False) -> None:
        """What the system says of the process beside what the side says of its own regions."""
        if self.handle is not None:
            self._report.memory({**self.handle.sample(unique), **self.handle.kinds})

    def _discard(self) -> None:
        if self.handle is not None:
            self._job.pool.kill(self.handle)
        self.handle = None

    def _worker(self) -> WorkerHandle:
        if self.handle is None:
            raise WorkerError(f"the worker of {self.options.side} is not running")
        return self.handle
