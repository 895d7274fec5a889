"""What a lane of a race is to its worker: one small Protocol, and the records that cross it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from eet_demo.records import Sampling, SideConfig


class StopRun(Exception):  # noqa: N818 - a request, not an error
    """Raised inside a side when its sink asks it to stop; the worker reports the run as stopped."""


@dataclass(frozen=True)
class SideOptions:
    """Everything a side is built from; two equal records are the same side, so a worker can be used again.

    Args:
        side: the name as the visitor gave it: `stock`, `engine`, `engine:prefill_chunk=64`, ...
        model_path: absolute path of the model's folder or file; empty for a scripted side.
        threads: CPU threads, the same for every side of a race.
        max_batch, max_context: the largest request: rows, and ids a row with its new tokens.
    """

    side: str
    model_path: str
    device: str
    dtype: str
    weights: str
    threads: int
    max_batch: int
    max_context: int


class Sink(Protocol):
    """Where a running side puts what happens. Every call is cheap: appended now, sent later by another thread."""

    @property
    def stopped(self) -> bool:
        """True once the visitor pressed Stop."""

    def started(self, time_ns: int) -> None:
        """t0 of this side: perf_counter_ns, as `RunClock` has it."""

    def tokens(self, time_ns: int, token_ids: Sequence[int | None]) -> None:
        """One step: `token_ids[row]`, None for a row that has ended; `time_ns` is perf_counter_ns."""

    def progress(self, done_tokens: int, total_tokens: int) -> None:
        """Prompt tokens prefilled so far, over all rows."""


@dataclass(frozen=True)
class RunRequest:
    """One run of one side: the very same ids for both. `stop_token_ids` is empty in timed races."""

    prompt_ids: tuple[tuple[int, ...], ...]
    new_tokens: int
    sampling: Sampling
    stop_token_ids: tuple[int, ...] = ()


@dataclass(frozen=True)
class RunClock:
    """perf_counter_ns around the work of a run, for every side the same work.

    At `start_ns` the ids are in host memory in the form that the side's library takes (stock's padded and masked), and
    nothing of the run is on a device: the way there is inside the clock. `end_ns` is when the last token lies in host
    memory, or the run was stopped.
    """

    start_ns: int
    end_ns: int


@dataclass(frozen=True)
class Roofline:
    """What the hardware would allow: bytes a decode step must move, and how fast these threads can move them.

    Args:
        bytes_per_step: bytes one decode step moves for all rows: weights once, the KV cache as filled.
        bandwidth_gb_s: 1e9 bytes a second, measured by the side's own threads; None for one that cannot.
    """

    bytes_per_step: int
    bandwidth_gb_s: float | None


class Side(Protocol):
    """One lane. Built in its worker process; nothing heavy happens before `load`."""

    def compile(self) -> None:
        """Compiles the kernels that this machine has not compiled yet; a phase of its own, before `load`."""

    def load(self) -> SideConfig:
        """Brings the weights into memory and returns what this side really is."""

    def run(self, request: RunRequest, sink: Sink) -> RunClock:
        """Generates exactly `new_tokens` per row into `sink`. Raises StopRun when the sink is stopped."""

    def memory_bytes(self) -> Mapping[str, int]:
        """Memory by kind: `weights`, `kv_cache_used`, `kv_cache_reserved`, `workspace`, ... (no process totals).

        Cheap and safe to call from another thread while `run` is going on.
        """

    def logits_at(self, token_ids: Sequence[int]) -> np.ndarray:
        """float32 (vocab_size,): logits after the last of `token_ids`, teacher-forced, for the parity margin."""

    def roofline(self, context: int, batch: int) -> Roofline:
        """The roofline of a decode step with `context` filled slots in each of `batch` rows.

        Raises:
            UnsupportedError: this side moves no bytes.
        """

    def close(self) -> None:
        """Frees everything."""
