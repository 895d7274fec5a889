"""The engine as a lane: `engine`, or `engine:prefill_chunk=64` with a field of `EngineOptions` switched.

Its worker imports what the engine imports and no more: with `device="cpu"` neither torch nor transformers.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping, Sequence
from typing import Any, get_args, get_type_hints

import numpy as np

from eet_demo.engine.engine import Engine
from eet_demo.errors import RequestError
from eet_demo.records import EngineOptions, SideConfig, as_json
from eet_demo.sides.names import SideName, parse_side
from eet_demo.sides.side import Roofline, RunClock, RunRequest, SideOptions, Sink, StopRun

SHARED = {"threads": "threads are the same for every side of a race, so they are set for all of them (--threads)"}
"""Fields of `EngineOptions` that a side's name cannot switch, and why: conditions of a race, no techniques."""


def engine_options(options: SideOptions) -> EngineOptions:
    """The side's `EngineOptions`: the race's threads, and what its name switches. Raises as `switched_options`."""
    return EngineOptions(threads=options.threads, **switched_options(parse_side(options.side)))


def switched_options(side: SideName) -> dict[str, Any]:
    """Fields of `EngineOptions` that a side's name switches.

    Raises:
        RequestError: a name that is no field or one of SHARED, or a value of the wrong type.
    """
    known = {field.name: field for field in dataclasses.fields(EngineOptions) if field.name not in SHARED}
    values: dict[str, Any] = {}
    for name, text in side.options.items():
        if name in SHARED:
            raise RequestError(f"side {side.text!r}: {name} is no option of a side: {SHARED[name]}")
        if name not in known:
            raise RequestError(f"side {side.text!r}: the engine has no option {name!r}; it has {', '.join(known)}")
        values[name] = _value(side.text, name, text, known[name].default)
    return values


def _value(side: str, name: str, text: str, default: object) -> Any:
    if isinstance(default, bool):
        if text not in ("on", "off"):
            raise RequestError(f"side {side!r}: {name} is a switch: on or off, not {text!r}")
        return text == "on"
    words = {str(word): word for word in get_args(get_type_hints(EngineOptions)[name]) if not isinstance(word, type)}
    if words:
        if text not in words:
            raise RequestError(f"side {side!r}: {name} is one of {', '.join(words)}, not {text!r}")
        return words[text]
    if not text.isdecimal():
        raise RequestError(f"side {side!r}: {name} takes a number, not {text!r}")
    return int(text)


def planned_bytes(options: SideOptions) -> int:
    """Bytes of the arena this side would allocate. Raises EetError when the model cannot be planned."""
    return Engine.plan(**_arguments(options)).total_bytes


def _arguments(options: SideOptions) -> dict[str, Any]:
    return {
        "model": options.model_path,
        "device": options.device,
        "dtype": options.dtype,
        "weights": options.weights,
        "max_batch": options.max_batch,
        "max_context": options.max_context,
        "options": engine_options(options),
    }


class EngineSide:
    """Wraps one `Engine`."""

    def __init__(self, options: SideOptions) -> None:
        self._options = options
        self._engine: Engine | None = None
        self._cached_slots = 0

    def compile(self) -> None:
        """Compiles what this device runs; its memory is reserved with it, as kernels hold addresses."""
        self._engine = Engine.build(**_arguments(self._options))

    def load(self) -> SideConfig:
        options = self._options
        engine = self._loaded()
        started = time.perf_counter()
        engine.load()
        seconds = time.perf_counter() - started
        details = {
            "options": as_json(engine_options(options)),
            "memory_plan": as_json(engine.memory),
            "load_s": seconds,
            "load_gb_s": engine.memory.weights_bytes / seconds / 1e9,
        }
        return SideConfig(
            options.side, "engine", options.device, options.dtype, options.weights, engine.threads, details
        )

    def run(self, request: RunRequest, sink: Sink) -> RunClock:
        """Stop acts between prefill passes and between decode steps."""
        self._cached_slots = 0

        def on_prefill(done_tokens: int, total_tokens: int) -> None:
            self._cached_slots = done_tokens
            sink.progress(done_tokens, total_tokens)
            if sink.stopped:
                raise StopRun

        start_ns = time.perf_counter_ns()
        sink.started(start_ns)
        stream = self._loaded().stream(
            request.prompt_ids, request.new_tokens, request.sampling, request.stop_token_ids, on_prefill
        )
        decoding = False
        try:
            for step in stream:
                sink.tokens(step.time_ns, step.token_ids)
                if decoding:  # the prefill's token is cached by the step that is fed with it
                    self._cached_slots += len(step.token_ids) - step.token_ids.count(None)
                decoding = True
                if sink.stopped:
                    raise StopRun
        finally:
            stream.close()
        return RunClock(start_ns, time.perf_counter_ns())

    def memory_bytes(self) -> Mapping[str, int]:
        engine = self._loaded()
        return {
            "weights": engine.memory.weights_bytes,
            "kv_cache_used": engine.kv_cache_used_bytes(self._cached_slots),
            "kv_cache_reserved": engine.memory.kv_cache_bytes,
            "workspace": engine.memory.workspace_bytes,
        }

    def logits_at(self, token_ids: Sequence[int]) -> np.ndarray:
        logits: np.ndarray = self._loaded().prefill_logits([token_ids])[0]
        return logits

    def roofline(self, context: int, batch: int) -> Roofline:
        engine = self._loaded()
        return Roofline(engine.bytes_per_token(context, batch) * batch, engine.measure_bandwidth_gb_s())

    def close(self) -> None:
        if self._engine is not None:
            self._engine.close()

    def _loaded(self) -> Engine:
        if self._engine is None:
            raise RequestError(f"{self._options.side} is not there yet: compile and load come first")
        return self._engine
