"""`Engine`: a loaded model that generates. Requests are checked here; what runs is the executor's business."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np

from eet_demo.engine.devices import device_for
from eet_demo.engine.executors import ENDED, Executor, Float32
from eet_demo.engine.passes import Cursor, decode_step, prefill_steps, without_head
from eet_demo.engine.plan import Plan
from eet_demo.engine.planned import Planned, plan_model
from eet_demo.engine.requests import check_ids, check_new_tokens, prompt_ids
from eet_demo.engine.sampling import check_sampling
from eet_demo.engine.spec import ModelSpec
from eet_demo.engine.stream import Door, Stream
from eet_demo.engine.work import Work
from eet_demo.errors import EetError
from eet_demo.records import EngineOptions, MemoryReport, Sampling

GREEDY = Sampling()

OnPrefill = Callable[[int, int], None]
"""Called after each prefill pass with the prompt tokens done and in all; may raise to cancel."""


@dataclass(frozen=True)
class StepTokens:
    """One token of every row: `token_ids[row]` is None once that row has finished; `time_ns` is perf_counter_ns."""

    token_ids: tuple[int | None, ...]
    time_ns: int


@dataclass(frozen=True)
class Generation:
    """New tokens only, one list a prompt; a stop token is included and ends its row."""

    token_ids: list[list[int]]


class Engine:
    """One model on one device. Not shared between threads: one generation at a time, else EngineBusyError."""

    def __init__(self, executor: Executor, planned: Planned, ragged_prefill: bool = True) -> None:
        """Use `from_pretrained`."""
        self._ragged_prefill, self._checkpoint = ragged_prefill, planned.checkpoint
        self._executor, self._program, self._plan = executor, planned.program, planned.plan
        self._weight_bytes, self._element = planned.weight_bytes, planned.element
        self._door = Door()

    @classmethod
    def from_pretrained(
        cls,
        model: str | Path,
        device: str = "cpu",
        dtype: str = "float32",
        weights: str = "dense",
        max_batch: int = 4,
        max_context: int = 2048,
        options: EngineOptions | None = None,
    ) -> Self:
        """Loads `model`: a folder (config.json + safetensors), or `shape:gpt2`, a public shape with random weights.

        Raises:
            UnsupportedError: an architecture, device, dtype or weight format that is not to be had here.
            MemoryPlanError: the plan exceeds the memory available; nothing was allocated.
            CheckpointError: the folder cannot be read.
        """
        engine = cls.build(model, device, dtype, weights, max_batch, max_context, options)
        engine.load()
        return engine

    @classmethod
    def build(
        cls,
        model: str | Path,
        device: str = "cpu",
        dtype: str = "float32",
        weights: str = "dense",
        max_batch: int = 4,
        max_context: int = 2048,
        options: EngineOptions | None = None,
    ) -> Self:
        """`from_pretrained` up to the point where weights are read: memory allocated, kernels compiled.

        Raises:
            KernelCompileError: no compiler, or it refused a kernel. Otherwise as `from_pretrained`.
        """
        options = options or EngineOptions()
        kind = device_for(device, dtype, weights, options)
        planned = plan_model(cls.locate(model), kind, dtype, weights, max_batch, max_context, options)
        planned.plan.check_fits(kind.available_bytes())
        executor = kind.executor(planned.program, planned.plan, dtype, planned.checkpoint.formats, options)
        return cls(executor, planned, options.ragged_prefill)

    def load(self) -> None:
        """Reads the weights of an engine that was only built; whatever keeps it from that also closes the engine.

        Raises:
            CheckpointError: a folder that lacks weights.
        """
        try:
            with self._door.held():
                self._executor.load(self._checkpoint)
        except BaseException as error:
            try:
                self.close()
            except EetError as closing:
                error.add_note(f"Closing the engine failed too: {closing}")
            raise

    @classmethod
    def plan(
        cls,
        model: str | Path,
        device: str = "cpu",
        dtype: str = "float32",
        weights: str = "dense",
        max_batch: int = 4,
        max_context: int = 2048,
        options: EngineOptions | None = None,
    ) -> MemoryReport:
        """The memory `from_pretrained` with the same arguments would take, to the byte; allocates nothing."""
        options = options or EngineOptions()
        kind = device_for(device, dtype, weights, options)
        return plan_model(cls.locate(model), kind, dtype, weights, max_batch, max_context, options).plan.report

    @staticmethod
    def locate(model: str | Path) -> str | Path:
        """The folder or `shape:NAME` that `model` is: itself. `eet_demo.Engine` looks names up here."""
        return model

    @property
    def spec(self) -> ModelSpec:
        return self._program.spec

    @property
    def threads(self) -> int | None:
        """CPU threads that run a step, as the executor has them; None where a library below it decides."""
        return self._executor.threads

    @property
    def memory(self) -> MemoryReport:
        return self._plan.report

    @property
    def memory_plan(self) -> Plan:
        """Every block's place in the arena."""
        return self._plan

    def kv_cache_used_bytes(self, slots: int) -> int:
        """Bytes of the KV cache that `slots` filled slots (summed over rows) occupy."""
        limits = self._plan.limits
        return self.memory.kv_cache_bytes * slots // (limits.max_batch * limits.max_context)

    def bytes_per_token(self, context: int, batch: int = 1) -> int:
        """Bytes one decode step must move when every cache holds `context` slots, over `batch` rows.

        A layer with a window reads no more than its window.
        """
        work = Work.decode(batch, context)
        return self._program.bytes_moved(work, self._weight_bytes, self._element) // batch

    def measure_bandwidth_gb_s(self) -> float | None:
        """Streaming read bandwidth of the executor's own threads or device over the weights, 1e9 bytes a second."""
        with self._door.held():
            return self._executor.measure_bandwidth_gb_s()

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        max_new_tokens: int,
        sampling: Sampling = GREEDY,
        stop_token_ids: Sequence[int] = (),
    ) -> Generation:
        """Generates up to `max_new_tokens` tokens for each prompt; the arguments and errors of `stream`."""
        rows: list[list[int]] = [[] for _ in prompts]
        for step in self.stream(prompts, max_new_tokens, sampling, stop_token_ids):
            for row, token in zip(rows, step.token_ids, strict=True):
                if token is not None:
                    row.append(token)
        return Generation(rows)

    def stream(
        self,
        prompts: Sequence[Sequence[int]],
        max_new_tokens: int,
        sampling: Sampling = GREEDY,
        stop_token_ids: Sequence[int] = (),
        on_prefill: OnPrefill | None = None,
    ) -> Stream[StepTokens]:
        """The same, a step at a time; closing the iterator cancels within one step.

        Raises:
            RequestError: an empty prompt, an id that is no whole number or outside the vocabulary, max_new_tokens < 1,
                too many rows or tokens.
            EngineBusyError: another generation of this engine has not ended.
            EngineClosedError: this engine was closed.
        """
        check_new_tokens(max_new_tokens)
        check_sampling(sampling)
        check_ids("stop_token_ids", stop_token_ids)
        cursor = self._cursor(prompts, max_new_tokens, sampling)
        return Stream(self._steps(cursor, max_new_tokens, frozenset(stop_token_ids), on_prefill), self._door)

    def prefill_logits(self, prompts: Sequence[Sequence[int]]) -> Float32:
        """float32 (batch, vocab_size): logits after each prompt's last token."""
        last = np.empty((len(prompts), self.spec.vocab_size), np.float32)
        for row, start, logits in self.logits(prompts, last_only=True):
            del start
            last[row] = logits[-1]
        return last

    def logits(self, prompts: Sequence[Sequence[int]], last_only: bool = False) -> Iterator[tuple[int, int, Float32]]:
        """(row, start, float32 (n, vocab_size)) for positions start .. start + n of a prompt, in passes.

        All positions, or with `last_only` the last of each prompt.
        """
        return Stream(self._logits(self._cursor(prompts, 0, GREEDY), last_only), self._door)

    def close(self) -> None:
        """Frees the memory; twice is once. Afterwards every use raises EngineClosedError.

        Raises:
            EngineBusyError: a generation has not ended; close its stream first.
        """
        if not self._door.closed:
            self._door.close()
            self._executor.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _cursor(self, prompts: Sequence[Sequence[int]], new_tokens: int, sampling: Sampling) -> Cursor:
        return Cursor(prompt_ids(prompts, new_tokens, self._plan.limits, self.spec.vocab_size), sampling)

    def _steps(
        self, cursor: Cursor, max_new_tokens: int, stop: frozenset[int], on_prefill: OnPrefill | None
    ) -> Generator[StepTokens]:
        total = cursor.prompt_tokens
        done = 0
        for step in prefill_steps(cursor, self._plan.limits.rows, self._ragged_prefill):
            cursor.accept(step, self._executor.run(step), stop)
            done += step.rows
            if on_prefill:
                on_prefill(done, total)
        yield StepTokens(cursor.latest(), time.perf_counter_ns())
        if max_new_tokens == 1 or cursor.finished:
            return
        rows = cursor.running()
        tokens: list[int | None] = [None] * len(cursor.prompts)
        with closing(self._executor.decode(decode_step(cursor), max_new_tokens - 1, stop)) as steps:
            for drawn, time_ns in steps:
                for row, token in zip(rows, drawn.tolist(), strict=True):
                    tokens[row] = None if token == ENDED else token
                yield StepTokens(tuple(tokens), time_ns)

    def _logits(self, cursor: Cursor, last_only: bool) -> Generator[tuple[int, int, Float32]]:
        group = self._plan.limits.logit_rows
        for step in prefill_steps(cursor, self._plan.limits.rows, self._ragged_prefill):
            self._executor.run(without_head(step))
            for b in range(step.batch):
                first, stop = int(step.row_starts[b]), int(step.row_starts[b + 1])
                if last_only:
                    first = stop - 1 if stop - 1 in step.wanted else stop
                for start in range(first, stop, group):
                    rows = np.arange(start, min(start + group, stop), dtype=np.int32)
                    yield int(step.cache_rows[b]), int(step.positions[start]), self._executor.head(rows).copy()
