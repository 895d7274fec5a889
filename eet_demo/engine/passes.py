"""From a request to the executor's steps: prefill passes over ragged rows, then one decode step after another."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from eet_demo.engine.executors import ENDED, Int32, Step
from eet_demo.records import Sampling

NO_ROWS: Int32 = np.empty(0, np.int32)


class Cursor:
    """How far a request has come: what each row has cached, its newest token, and whether it has ended."""

    def __init__(self, prompts: Sequence[Int32], sampling: Sampling) -> None:
        self.prompts = prompts
        self.sampling = sampling
        self.cached = [0] * len(prompts)
        self.generated = [0] * len(prompts)
        self.ended = [False] * len(prompts)
        self._latest: list[int | None] = [None] * len(prompts)

    @property
    def prompt_tokens(self) -> int:
        return sum(len(prompt) for prompt in self.prompts)

    @property
    def finished(self) -> bool:
        return all(self.ended)

    def latest(self) -> tuple[int | None, ...]:
        """The newest token of each row; None for rows that had ended before this step."""
        return tuple(self._latest)

    def running(self) -> list[int]:
        return [row for row, ended in enumerate(self.ended) if not ended]

    def accept(self, step: Step, token_ids: Int32, stop: frozenset[int]) -> None:
        """Books what a prefill pass did: slots filled, tokens sampled, rows ended by a stop token."""
        for row, start in zip(step.cache_rows.tolist(), np.diff(step.row_starts).tolist(), strict=True):
            self.cached[row] += start
        for row, token in zip(step.sample_rows.tolist(), token_ids.tolist(), strict=True):
            self._latest[row] = token
            self.generated[row] += 1
            self.ended[row] = token in stop


def prefill_steps(cursor: Cursor, max_rows: int, ragged: bool = True) -> Iterator[Step]:
    """Passes of at most `max_rows` rows over all prompts; a prompt's last row is wanted in its own pass.

    Not `ragged`, a pass holds rows of one prompt only.
    """
    row = offset = 0
    while row < len(cursor.prompts):
        spans: list[tuple[int, int, int]] = []
        room = max_rows
        while room and row < len(cursor.prompts) and (ragged or not spans):
            stop = min(len(cursor.prompts[row]), offset + room)
            spans.append((row, offset, stop))
            room -= stop - offset
            ended = stop == len(cursor.prompts[row])
            row, offset = (row + 1, 0) if ended else (row, stop)
        yield _prefill_step(cursor, spans)


def _prefill_step(cursor: Cursor, spans: list[tuple[int, int, int]]) -> Step:
    """One pass over `spans`: (row, first token, one past the last) of each prompt it touches."""
    starts = np.cumsum([0] + [stop - start for _, start, stop in spans]).astype(np.int32)
    done = [(i, row) for i, (row, _, stop) in enumerate(spans) if stop == len(cursor.prompts[row])]
    return Step(
        token_ids=np.concatenate([cursor.prompts[row][start:stop] for row, start, stop in spans]),
        positions=np.concatenate([np.arange(start, stop, dtype=np.int32) for _, start, stop in spans]),
        row_starts=starts,
        cache_rows=np.array([row for row, _, _ in spans], np.int32),
        cache_starts=np.array([start for _, start, _ in spans], np.int32),
        wanted=np.array([starts[i + 1] - 1 for i, _ in done], np.int32),
        sample_rows=np.array([row for _, row in done], np.int32),
        sample_steps=np.zeros(len(done), np.int32),
        sampling=cursor.sampling,
    )


def decode_step(cursor: Cursor) -> Step:
    """The first decode step: one new token for every running row."""
    rows = cursor.running()
    tokens = [cursor.latest()[row] for row in rows]
    cached = np.array([cursor.cached[row] for row in rows], np.int32)
    active = np.array(rows, np.int32)
    return Step(
        token_ids=np.array(tokens, np.int32),
        positions=cached,
        row_starts=np.arange(len(rows) + 1, dtype=np.int32),
        cache_rows=active,
        cache_starts=cached,
        wanted=np.arange(len(rows), dtype=np.int32),
        sample_rows=active,
        sample_steps=np.array([cursor.generated[row] for row in rows], np.int32),
        sampling=cursor.sampling,
    )


def decode_on_host(
    run: Callable[[Step], Int32], step: Step, count: int, stop: frozenset[int]
) -> Generator[tuple[Int32, int]]:
    """`Executor.decode` for executors that hand every token to the host: rows that end leave the following steps."""
    tokens = np.full(step.rows, ENDED, np.int32)
    running = np.arange(step.rows)
    for left in range(count, 0, -1):
        drawn = run(step)
        now = time.perf_counter_ns()
        tokens[:] = ENDED
        tokens[running] = drawn
        yield tokens.copy(), now
        going = np.array([token not in stop for token in drawn.tolist()])
        if left == 1 or not going.any():
            return
        step, running = _next_step(step, drawn, going), running[going]


def _next_step(step: Step, drawn: Int32, going: NDArray[np.bool_]) -> Step:
    """The decode step after `step`, of the rows still `going`, fed with what they drew."""
    rows = int(going.sum())
    return replace(
        step,
        token_ids=drawn[going],
        positions=step.positions[going] + 1,
        row_starts=np.arange(rows + 1, dtype=np.int32),
        cache_rows=step.cache_rows[going],
        cache_starts=step.cache_starts[going] + 1,
        wanted=np.arange(rows, dtype=np.int32),
        sample_rows=step.sample_rows[going],
        sample_steps=step.sample_steps[going] + 1,
    )


def without_head(step: Step) -> Step:
    """The same pass with no row wanted."""
    return replace(step, wanted=NO_ROWS, sample_rows=NO_ROWS, sample_steps=NO_ROWS)
