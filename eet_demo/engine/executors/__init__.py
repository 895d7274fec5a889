"""Four executors for one program: reference (NumPy), cpu (C++), cuda and sim (the same kernels on two launchers)."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from eet_demo.engine.checkpoint import Checkpoint
from eet_demo.records import Sampling

Int32 = NDArray[np.int32]
Float32 = NDArray[np.float32]

ENDED = -1
"""Instead of a token: the row had ended before this step."""


@dataclass(frozen=True)
class Step:
    """One pass over the program: the tokens of one or more sequences, one after the other without pads.

    Sequence `b` of the step owns rows `row_starts[b] .. row_starts[b + 1]`; they go to the cache slots from
    `cache_starts[b]` on, of cache row `cache_rows[b]`; a token's slot is its position. No pads, no masks.

    Args:
        token_ids: (rows,) int32.
        positions: (rows,) int32.
        row_starts: (batch + 1,) int32, cumulative rows; FlashAttention's cu_seqlens.
        cache_rows: (batch,) int32, row of the KV cache.
        cache_starts: (batch,) int32, slots filled before this step; its cache_seqlens.
        wanted: (n,) int32, the rows that get logits and a sampled token; may be empty in a prefill pass.
        sample_rows: (n,) int32, the request's row of each wanted row: the Philox counter's third word.
        sample_steps: (n,) int32, tokens this request's row has generated: the counter's second word.
        sampling: how the tokens are drawn.
    """

    token_ids: Int32
    positions: Int32
    row_starts: Int32
    cache_rows: Int32
    cache_starts: Int32
    wanted: Int32
    sample_rows: Int32
    sample_steps: Int32
    sampling: Sampling

    @property
    def rows(self) -> int:
        return len(self.token_ids)

    @property
    def batch(self) -> int:
        return len(self.cache_rows)


class Executor(Protocol):
    """A loaded model. Built with its plan already checked against the memory there is."""

    @property
    def threads(self) -> int | None:
        """CPU threads that run a step, the caller's included; None where a library below decides."""

    def load(self, checkpoint: Checkpoint) -> None:
        """Brings every weight into the arena."""

    def run(self, step: Step) -> Int32:
        """Runs the whole program; returns (n,) int32, the token sampled for each wanted row."""

    def decode(self, step: Step, count: int, stop: frozenset[int]) -> Generator[tuple[Int32, int]]:
        """Up to `count` decode steps, the first of them `step`: one row a sequence, all of them wanted.

        Yields (rows,) int32, ENDED for rows whose last token was in `stop`, and the perf_counter_ns at which host
        memory held them; ends when every row has ended. Closing the iterator cancels what is left.

        Raises:
            NumericsError: a row's best logit is NaN or infinite.
        """

    def head(self, wanted: Int32) -> Float32:
        """Runs `norm_lm_head` again on rows of the last step: float32 (n, vocab_size), n <= limits.logit_rows.

        A view of the workspace: copy it to keep it.
        """

    def measure_bandwidth_gb_s(self) -> float | None:
        """Streaming read bandwidth of this executor's own threads or device over the weights, 1e9 bytes a second.

        None for the simulator, whose speed says nothing.
        """

    def close(self) -> None:
        """Frees the arena and stops the threads."""
