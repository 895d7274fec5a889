"""One side in one race: drives its worker and turns the worker's events into updates for the page and columns.

Every step is a generator that yields whenever it waits; the schedule decides who advances. Nothing blocks.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Sequence

from eet_demo import errors
from eet_demo.errors import EetError, KernelFaultError, WorkerError
from eet_demo.race.job import WARM_UP_PROMPT_TOKENS, LaneJob, Waiting
from eet_demo.records import as_json
from eet_demo.results.record import SideRecord
from eet_demo.sides.names import parse_side
from eet_demo.sides.side import SideOptions
from eet_demo.worker.handle import WorkerHandle
from eet_demo.worker.memory import ProcessMemory
from eet_demo.worker.process import Message

STOP_GRACE_S = 1.0
WORTH_A_PHASE_S = 0.2
MEMORY_EVERY_NS = 100_000_000


class _Halted(Exception):  # noqa: N818 - a request, not an error
    """The visitor pressed Stop, and the worker has stopped or was ended."""


class Lane:
    """One side's way through a race. `record` holds what was measured; `over` is set once it failed or was stopped."""

    def __init__(self, index: int, options: SideOptions, job: LaneJob, record: SideRecord) -> None:
        self.index = index
        self.options = options
        self.record = record
        self.over = False
        self.error: EetError | None = None
        self._job = job
        self._handle: WorkerHandle | None = None
        self._memory: ProcessMemory | None = None
        self._memory_due_ns = 0

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

    @property
    def base_bytes(self) -> int | None:
        """Resident bytes of the worker before any weights; None while it is not known."""
        return self._handle.base_bytes if self._handle is not None else None

    @property
    def held_bytes(self) -> int:
        """Bytes that the worker has taken beyond its bare process where it runs: on the GPU, or resident on a host."""
        sample = self._memory.sample() if self._memory is not None else {}
        if self.options.device == "cuda":
            return sample.get("device_process", 0)
        return max(0, sample.get("process", 0) - (self.base_bytes or 0))

    @property
    def resident(self) -> bool:
        """True while the worker holds the weights."""
        return self._handle is not None and self._handle.alive and self._handle.loaded

    def renew(self, record: SideRecord) -> None:
        """Measures into `record` from now on: another run of the same side."""
        self.record = record

    def wait_for(self, detail: str) -> None:
        """Says on the page what this lane waits for."""
        if not self.over:
            self._state("waiting", detail)

    def unload(self) -> None:
        """Ends the worker, so that the other side has the memory."""
        if self._handle is not None:
            self._job.pool.end(self._handle)
        self._handle = self._memory = None

    def fail(self, error: EetError) -> None:
        """This side does not run any further, and why. The worker stays only if it is sound."""
        self.over, self.error = True, error
        self.record.error = {"message": str(error), "remedy": error.remedy}
        self._job.post({"kind": "error", "side": self.index, **self.record.error})
        self._state("failed", str(error))
        if self._handle is not None and isinstance(error, KernelFaultError | WorkerError):
            self._handle.kill()  # a GPU serves no process that had a fault on it; a fresh one starts for the next race
            self.unload()
        elif self._handle is not None and not self.resident:
            self.unload()

    def ask_to_stop(self) -> None:
        """Tells a busy worker to stop and waits for nothing; `abandon` follows."""
        if self._handle is not None and self._handle.busy:
            self._handle.send({"cmd": "stop"})

    def abandon(self, deadline_s: float) -> None:
        """The race is over: lets go of the worker, killing one that still runs after `deadline_s` (perf_counter)."""
        handle = self._handle
        if handle is None:
            return
        try:
            while handle.busy and time.perf_counter() < deadline_s:
                handle.poll()
                time.sleep(0.01)
        except WorkerError:
            self.unload()
            return
        if handle.busy or not handle.loaded:
            handle.kill()
            self.unload()
        handle.taken = False

    def _guarded(self, steps: Waiting) -> Waiting:
        """Runs `steps` unless the lane is over; Stop and errors end this lane alone."""
        if self.over:
            return
        try:
            if self._job.stop.is_set():
                raise _Halted
            yield from steps
        except _Halted:
            self.over = True
            self._state("stopped", self._job.stop.why)
        except EetError as error:
            self.fail(error)

    def _state(self, state: str, detail: str) -> None:
        if state in ("waiting", "done", "failed", "stopped"):
            self.record.state = state
        self._job.post({"kind": "state", "side": self.index, "state": state, "detail": detail})

    def _start_process(self) -> Waiting:
        if self._handle is None or not self._handle.alive:
            self._handle = self._job.pool.acquire(self.options)
            self._memory = ProcessMemory(self._handle.pid, self._job.gpu)
        if self._handle.base_bytes is None:
            self._state("loading", "starting a process of its own")
            yield from self._wait("imported")
        if self._handle.loading:
            # Begun before this race, it must not go on beside another side's clock.
            yield from self._load_weights(self._handle)

    def _prepare(self) -> Waiting:
        yield from self._load()
        yield from self._warm_up()

    def _load(self) -> Waiting:
        yield from self._start_process()
        handle = self._worker()
        if not handle.loaded:
            yield from self._load_weights(handle)
        if self.record.config is None:
            self.record.config = handle.config
            self._job.post({"kind": "config", "side": self.index, "config": handle.config})
        self._sample_memory(time.perf_counter_ns())

    def _load_weights(self, handle: WorkerHandle) -> Waiting:
        begin_ns = time.perf_counter_ns()
        compiles = "; kernels are compiled first, once a machine" if parse_side(self.options.side).kind.compiles else ""
        self._state("loading", f"loading {self.options.dtype} weights{compiles}")
        handle.load()
        if handle.compiled_s is None:
            yield from self._wait("compiled")
        if handle.compiled_s is not None and handle.compiled_s > WORTH_A_PHASE_S:
            loading_ns = time.perf_counter_ns()
            self.record.phase("compiling", begin_ns, loading_ns)
            begin_ns = loading_ns
        if not handle.loaded:
            yield from self._wait("loaded")
        self.record.phase("loading", begin_ns, time.perf_counter_ns())

    def _warm_up(self) -> Waiting:
        handle, request = self._worker(), self._job.warm_up_request()
        shape = (request.new_tokens, *map(len, request.prompt_ids))
        begin_ns = time.perf_counter_ns()
        if shape in handle.warmed:
            self.record.phase("warm-up", begin_ns, begin_ns, "skipped: this worker has already run these shapes")
            return
        detail = f"{request.new_tokens} tokens before the clock starts"
        if len(request.prompt_ids[0]) < len(self._job.request.prompt_ids[0]):
            detail += f", after the first {WARM_UP_PROMPT_TOKENS} of the prompt"
        self._state("warming", detail)
        yield from self._ask({"cmd": "run", "request": as_json(request), "warm_up": True}, "finished")
        handle.warmed.add(shape)
        self.record.phase("warm-up", begin_ns, time.perf_counter_ns(), detail)

    def _race(self) -> Waiting:
        self._state("prefilling", "reading the prompt")
        try:
            yield from self._ask({"cmd": "run", "request": as_json(self._job.request), "warm_up": False}, "finished")
        finally:
            self._memory_due_ns = 0
            self._sample_memory(time.perf_counter_ns(), unique=True)
            self.record.finish(time.perf_counter_ns())
        self._state("done", "finished")

    def _question(self, command: Message) -> Generator[None, None, Message]:
        """Asks a side that has run, outside any clock; Stop is an EetError here."""
        try:
            yield from self._load()
            return (yield from self._ask(command, command["cmd"]))
        except _Halted:
            raise EetError(f"{self.options.side} was stopped before it had answered") from None

    def _ask(self, command: Message, answer: str) -> Generator[None, None, Message]:
        self._worker().send(command)
        return (yield from self._wait(answer))

    def _wait(self, wanted: str) -> Generator[None, None, Message]:
        """Yields until the worker sends `wanted`, taking in every event on the way.

        Raises:
            EetError: the worker reported an error, or died.
            _Halted: the visitor pressed Stop; the worker has stopped, or was ended after STOP_GRACE_S.
        """
        handle = self._worker()
        stop_deadline_s: float | None = None
        found: Message | None = None
        while True:
            for event in handle.poll():
                self._take(event)
                found = event if event["event"] == wanted else found
            self._sample_memory(time.perf_counter_ns())
            if self._job.stop.is_set():
                if found is not None:
                    raise _Halted
                if stop_deadline_s is None:
                    handle.send({"cmd": "stop"})
                    stop_deadline_s = time.perf_counter() + STOP_GRACE_S
                if time.perf_counter() > stop_deadline_s:
                    # Stock cannot hear inside its prefill; nobody can inside a load.
                    self._job.pool.replace(handle)
                    self._handle = self._memory = None
                    raise _Halted
            if found is not None:
                return found
            yield

    def _take(self, event: Message) -> None:
        """Books one event of the worker and posts what the page needs of it."""
        kind = event["event"]
        if kind == "error":
            error_class = getattr(errors, event["type"], EetError)
            raise error_class(event["message"])
        if kind == "started":
            self.record.start(event["t0_ns"])
        elif kind == "tokens":
            if not self.record.tokens["row"]:
                self._state("decoding", "writing")
            columns = self.record.add_tokens(event["row"], event["time_ns"], event["id"])
            self._job.post({"kind": "tokens", "side": self.index, **columns})
        elif kind == "progress":
            self.record.add_progress(event["time_ns"], event["done"], event["total"])
            self._job.post({"kind": "progress", "side": self.index, "done": event["done"], "total": event["total"]})

    def _sample_memory(self, now_ns: int, unique: bool = False) -> None:
        """Every MEMORY_EVERY_NS: what the system says of the process beside what the side says of its own regions."""
        if self._memory is None or now_ns < self._memory_due_ns:
            return
        self._memory_due_ns = now_ns + MEMORY_EVERY_NS
        kinds = {**self._memory.sample(unique), **self._worker().kinds}
        if "process" not in kinds:
            return
        self.record.add_memory(now_ns, kinds)
        columns = {f"{kind}_bytes": [value] for kind, value in kinds.items()}
        self._job.post({"kind": "memory", "side": self.index, "time_ns": [self.record.relative_ns(now_ns)], **columns})

    def _worker(self) -> WorkerHandle:
        if self._handle is None:
            raise WorkerError(f"the worker of {self.options.side} is not running")
        return self._handle
