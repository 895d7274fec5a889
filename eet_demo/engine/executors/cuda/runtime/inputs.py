"""What a step is told, on the device: one copy from the host for a prefill pass, one for all decode steps."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from eet_demo.engine.executors import Step
from eet_demo.engine.executors.cuda.arrays import DeviceArray
from eet_demo.engine.executors.cuda.launchers.ragged_rows import RaggedRows
from eet_demo.engine.executors.cuda.launchers.sample import SETTINGS, SampleState, pack_settings
from eet_demo.engine.executors.cuda.runtime.arena import Arena
from eet_demo.engine.executors.cuda.runtime.layout import MAX_STOPS, words
from eet_demo.errors import RequestError

Words = NDArray[np.int32]

BUCKETS = (256, 1024, 4096, 16384, 65536, 131072)
"""Cache lengths: decode attention is dealt to blocks as if a cache were this long, so that launches can be repeated."""


@dataclass(frozen=True)
class StepInputs:
    """Rows of one pass over the program, on the device; see `Step`.

    Args:
        token_ids, positions, row_caches: (rows,) int32; row_caches is the KV cache's row of each.
        ragged: where sequences start.
        longest: rows of the longest sequence.
        length: no row attends to more slots than this; one of BUCKETS, or all the slots there are.
    """

    token_ids: DeviceArray
    positions: DeviceArray
    row_caches: DeviceArray
    ragged: RaggedRows
    longest: int
    length: int

    @property
    def rows(self) -> int:
        return self.token_ids.shape[0]


@dataclass(frozen=True)
class RowState:
    """Rows that draw tokens, on the device: a decode step reads and advances them, and so needs no host.

    Args:
        sample: (n,) int32 each; `positions` are also where the next step's keys go.
        cache_rows, wanted: (n,) int32; `wanted` counts 0, 1, ...
        row_starts: (n + 1,) int32, one row a sequence.
        settings: (6,) uint32. stop_ids: (MAX_STOPS,) int32, -1 for unused places.
    """

    sample: SampleState
    cache_rows: DeviceArray
    wanted: DeviceArray
    row_starts: DeviceArray
    settings: DeviceArray
    stop_ids: DeviceArray

    @property
    def rows(self) -> int:
        return self.wanted.shape[0]

    def inputs(self, length: int) -> StepInputs:
        """The decode step of these rows, whose caches hold at most `length` slots with the new one."""
        ragged = RaggedRows(self.row_starts, self.cache_rows, self.sample.positions)
        return StepInputs(self.sample.token_ids, self.sample.positions, self.cache_rows, ragged, 1, length)


def bucket_of(length: int, max_context: int) -> int:
    """The least of BUCKETS that holds `length` slots; beyond the last of them, all `max_context` there are."""
    return min(max_context, next((bucket for bucket in BUCKETS if bucket >= length), max_context))


def upload_step(arena: Arena, step: Step, max_context: int) -> tuple[StepInputs, DeviceArray | None]:
    """A prefill pass's inputs and its wanted rows (None where there are none).

    Where arrays lie depends on the numbers of rows, sequences and wanted rows alone.
    """
    row_caches = np.repeat(step.cache_rows, np.diff(step.row_starts))
    parts = (step.token_ids, step.positions, row_caches, step.row_starts, step.cache_rows, step.cache_starts)
    arrays = _upload(arena, "inputs", (*parts, step.wanted))
    token_ids, positions, caches, row_starts, cache_rows, cache_starts, wanted = arrays
    longest, length = int(np.diff(step.row_starts).max()), bucket_of(int(step.positions.max()) + 1, max_context)
    ragged = RaggedRows(row_starts, cache_rows, cache_starts)
    inputs = StepInputs(token_ids, positions, caches, ragged, longest, length)
    return inputs, wanted if len(step.wanted) else None


def upload_wanted(arena: Arena, wanted: Words) -> DeviceArray:
    """Rows of the last step, for the head alone."""
    return _upload(arena, "inputs", (wanted,))[0]


def upload_rows(arena: Arena, step: Step, stop: Iterable[int]) -> RowState:
    """The state of a step's wanted rows before they draw; nothing may be running that uses the one before.

    Raises:
        RequestError: more stop tokens than MAX_STOPS.
    """
    stops = sorted(stop)
    if len(stops) > MAX_STOPS:
        raise RequestError(f"{len(stops)} stop tokens given; at most {MAX_STOPS} are supported")
    rows = len(step.wanted)
    zeros, counted = np.zeros(rows, np.int32), np.arange(rows + 1, dtype=np.int32)
    feeding = len(step.token_ids) == rows  # a decode step: its rows are fed with what the host knows
    parts = (
        step.token_ids if feeding else zeros,
        step.positions if feeding else zeros,
        step.sample_steps,
        step.sample_rows,
        zeros,
        zeros,
        step.cache_rows if feeding else zeros,
        counted[:rows],
        counted,
        pack_settings(step.sampling).view(np.int32),
        np.array(stops + [-1] * (MAX_STOPS - len(stops)), np.int32),
    )
    arrays = _upload(arena, "rows", parts)
    settings = arrays[9].view((SETTINGS,), "uint32")
    return RowState(SampleState(*arrays[:6]), arrays[6], arrays[7], arrays[8], settings, arrays[10])


def _upload(arena: Arena, field: str, parts: tuple[Words, ...]) -> list[DeviceArray]:
    """One copy of all parts, each at a multiple of 64 bytes. Ordered with the stream; the host may go on at once."""
    host = np.zeros(sum(words(len(part)) for part in parts), np.int32)
    whole = arena.state[field]
    arrays, offset = [], 0
    for part in parts:
        host[offset : offset + len(part)] = part
        arrays.append(whole.view((len(part),), "int32", 4 * offset))
        offset += words(len(part))
    # From pageable memory: the driver has taken its copy of the words when this returns.
    arena.tensor(whole)[: len(host)].copy_(torch.from_numpy(host), non_blocking=True)
    return arrays
