"""A side that plays a fixed scenario: no model, no torch, any rate, any fault. The page's tests are driven by it.

`scripted:rate=200,prefill_s=0.4,passes=8` writes the prompt's own ids over and over, so that the text is readable;
`scripted:trace=/path/trace.json,index=1` plays the tokens of a recorded side at their recorded times.

Stamps are the script's own, whatever the machine was doing, so that figures of a scripted run are exact.
"""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from eet_demo.clock import Clock
from eet_demo.errors import EetError, RequestError, UnsupportedError
from eet_demo.records import SideConfig
from eet_demo.sides.names import SideName, parse_side
from eet_demo.sides.side import Roofline, RunClock, RunRequest, SideOptions, Sink, StopRun

MARGIN = 0.25
"""Logit of the scripted token over every other one: what the parity margin of a planted divergence must be."""

LISTENS_EVERY_S = 0.02


@dataclass(frozen=True)
class Scenario:
    """What happens. Times in seconds, `rate` in steps a second; a fault strikes when its step is reached.

    Args:
        passes: prefill progress reports, spread over `prefill_s`; 0 reports none, as stock does.
        deaf: Stop is not noticed during prefill, as in stock's.
        waits: sleeps until what it plays is due; off plays at once, with the same stamps.
        ids: ids joined by `+`, repeated; empty takes the prompt's own.
        differ_at: from this step on, every id is one higher.
        fail_in: `load`, `prefill`, `decode`, `memory` (asked during a run) or `logits`: raises there.
        die_in: the process kills itself there.
        fault_at: step of a fault in `decode`.
        trace, index: play side `index` of this recorded trace.
    """

    rate: float = 100.0
    prefill_s: float = 0.1
    compile_s: float = 0.0
    load_s: float = 0.0
    passes: int = 0
    deaf: bool = False
    waits: bool = True
    ids: str = ""
    differ_at: int = -1
    fail_in: str = ""
    die_in: str = ""
    fault_at: int = 3
    weights_mb: int = 100
    trace: str = ""
    index: int = 0

    @classmethod
    def from_options(cls, options: Mapping[str, str]) -> Scenario:
        """Raises RequestError for an unknown option or a value that is no number."""
        types: dict[str, Any] = {field.name: type(field.default) for field in fields(cls)}
        values: dict[str, Any] = {}
        for key, text in options.items():
            if key not in types:
                raise RequestError(f"scripted side: unknown option {key!r}; there are {', '.join(types)}")
            try:
                values[key] = text in ("on", "true", "1") if types[key] is bool else types[key](text)
            except ValueError:
                raise RequestError(f"scripted side: {key}={text!r} is not a {types[key].__name__}") from None
        return cls(**values)


def scenario_of(side: SideName) -> Scenario:
    """What the name's options write. Raises RequestError as `Scenario.from_options`."""
    return Scenario.from_options(side.options)


def no_bytes(options: SideOptions) -> int:
    """A script takes none."""
    return 0


class ScriptedSide:
    """Plays a `Scenario`; it sleeps until what it plays is due."""

    def __init__(self, options: SideOptions, clock: Clock | None = None) -> None:
        self._options = options
        self._clock = clock or Clock()
        self._scenario = scenario_of(parse_side(options.side))
        self._cached_tokens = 0
        self._prompts: tuple[tuple[int, ...], ...] = ()
        self._running = False

    def compile(self) -> None:
        self._sleep(self._scenario.compile_s)

    def load(self) -> SideConfig:
        self._sleep(self._scenario.load_s)
        self._strike("load")
        options = self._options
        return SideConfig(options.side, "scripted", options.device, options.dtype, options.weights, options.threads)

    def run(self, request: RunRequest, sink: Sink) -> RunClock:
        self._prompts = request.prompt_ids
        self._running = True
        try:
            return self._play(request, sink)
        finally:
            self._running = False

    def _play(self, request: RunRequest, sink: Sink) -> RunClock:
        start_ns = end_ns = self._clock.now_ns()
        sink.started(start_ns)
        self._prefill(request, sink, start_ns)
        for step, (due_ns, ids) in enumerate(self._steps(request)):
            end_ns = start_ns + due_ns
            self._sleep_until(end_ns)
            if sink.stopped:
                raise StopRun
            if step == self._scenario.fault_at:
                self._strike("decode")
            self._cached_tokens += len(ids)
            sink.tokens(end_ns, ids)
        return RunClock(start_ns, end_ns)

    def memory_bytes(self) -> Mapping[str, int]:
        if self._running:
            self._strike("memory")
        weights = self._scenario.weights_mb * 2**20
        reserved = self._options.max_batch * self._options.max_context * 1024
        return {"weights": weights, "kv_cache_used": self._cached_tokens * 1024, "kv_cache_reserved": reserved}

    def logits_at(self, token_ids: Sequence[int]) -> np.ndarray:
        """Zeros, but `MARGIN` for the id that the script, undisturbed by `differ_at`, puts after `token_ids`."""
        self._strike("logits")
        logits = np.zeros(2**18, dtype=np.float32)
        for prompt in self._prompts:
            if tuple(token_ids[: len(prompt)]) == prompt:
                logits[self._planned(prompt, len(token_ids) - len(prompt))] = MARGIN
        return logits

    def roofline(self, context: int, batch: int) -> Roofline:
        raise UnsupportedError("a scripted side moves no bytes: it has no roofline")

    def close(self) -> None:
        """Nothing is held."""

    def _prefill(self, request: RunRequest, sink: Sink, start_ns: int) -> None:
        total = sum(map(len, request.prompt_ids))
        passes = self._scenario.passes or 1
        self._cached_tokens = 0
        for done in range(1, passes + 1):
            due_ns = start_ns + round(self._scenario.prefill_s * 1e9 * done / passes)
            self._sleep_until(due_ns, None if self._scenario.deaf else sink)
            if sink.stopped and not self._scenario.deaf:
                raise StopRun
            self._cached_tokens = total * done // passes
            if self._scenario.passes:
                sink.progress(self._cached_tokens, total)
        self._strike("prefill")

    def _steps(self, request: RunRequest) -> Iterator[tuple[int, list[int | None]]]:
        """(nanoseconds after t0, ids per row) of every step."""
        if self._scenario.trace:
            yield from _recorded_steps(Path(self._scenario.trace), self._scenario.index, len(request.prompt_ids))
            return
        ended = [False] * len(request.prompt_ids)
        for step in range(request.new_tokens):
            ids: list[int | None] = []
            for row, prompt in enumerate(request.prompt_ids):
                token_id = self._token(prompt, step)
                ids.append(None if ended[row] else token_id)
                ended[row] = ended[row] or token_id in request.stop_token_ids
            if all(token_id is None for token_id in ids):
                return
            yield round((self._scenario.prefill_s + step / self._scenario.rate) * 1e9), ids

    def _planned(self, prompt: Sequence[int], step: int) -> int:
        cycle = [int(text) for text in self._scenario.ids.split("+")] if self._scenario.ids else prompt
        return cycle[step % len(cycle)]

    def _token(self, prompt: Sequence[int], step: int) -> int:
        return self._planned(prompt, step) + (0 <= self._scenario.differ_at <= step)

    def _sleep(self, seconds: float) -> None:
        if self._scenario.waits and seconds > 0:
            self._clock.sleep(seconds)

    def _sleep_until(self, due_ns: int, sink: Sink | None = None) -> None:
        """Sleeps until the clock reaches `due_ns`, or until `sink` is stopped."""
        while self._scenario.waits and (remaining_ns := due_ns - self._clock.now_ns()) > 0:
            if sink is not None and sink.stopped:
                return
            self._sleep(min(remaining_ns / 1e9, LISTENS_EVERY_S) if sink is not None else remaining_ns / 1e9)

    def _strike(self, place: str) -> None:
        if self._scenario.die_in == place:
            os.kill(os.getpid(), signal.SIGKILL)
        if self._scenario.fail_in == place:
            raise EetError(f"the scripted side fails in {place}, as its scenario says; choose another scenario")


def _recorded_steps(path: Path, index: int, rows: int) -> Iterator[tuple[int, list[int | None]]]:
    """Steps of a recorded side: tokens that share a stamp are one step."""
    tokens = json.loads(path.read_text(encoding="utf-8"))["sides"][index]["tokens"]
    step: list[int | None] = [None] * rows
    due_ns: int | None = None
    for row, time_ns, token_id in zip(tokens["row"], tokens["time_ns"], tokens["id"], strict=True):
        if due_ns is not None and time_ns != due_ns:
            yield due_ns, step
            step = [None] * rows
        due_ns = time_ns
        if row < rows:
            step[row] = token_id
    if due_ns is not None:
        yield due_ns, step
