"""Launcher of kernels/cuda/sample.cu, and the state that it advances on the device."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from eet_demo.engine.executors.cuda.arrays import DeviceArray, DType
from eet_demo.engine.executors.cuda.compile.launch import Instance, LaunchConfig, Launcher, check_array
from eet_demo.engine.executors.cuda.launchers.matrices import WeightFormat
from eet_demo.engine.spec import ModelSpec
from eet_demo.errors import UnsupportedError
from eet_demo.records import Sampling
from eet_demo.sizes import ceil_div

THREADS = 512
MAX_VOCAB = 2**24
CLASSES = 256
MAX_BLOCKS = 32
"""Of a row: more would wait for each other longer than they read."""
BLOCK_TOKENS = 8 * THREADS
"""That a block of a row has under way at once."""
SETTINGS = 6
"""Words of `pack_settings`."""
INSTANCE = Instance("sample", (THREADS,))
"""The one kernel: how to draw is read from the device, so a captured graph serves every request."""


@dataclass(frozen=True)
class SampleState:
    """What a step of generation leaves for the next, (rows,) int32 each, on the device.

    Args:
        token_ids: the token drawn last: what `embed` reads next.
        positions: its slot: one more after each draw.
        steps: tokens drawn so far by the row, the Philox counter's second word.
        request_rows: the request's row, the counter's third word; never written.
        finished: 1 from a stop token on; such a row is left as it is.
        sequences: launches since the state was written, finished or not: what the ring is read by.
    """

    token_ids: DeviceArray
    positions: DeviceArray
    steps: DeviceArray
    request_rows: DeviceArray
    finished: DeviceArray
    sequences: DeviceArray


@dataclass(frozen=True)
class SampleScratch:
    """What the blocks of a row leave for each other: see `scratch_fields`."""

    classes: DeviceArray
    counters: DeviceArray
    firsts: DeviceArray
    survivors: DeviceArray


def scratch_fields(rows: int, vocab: int) -> dict[str, tuple[tuple[int, ...], DType]]:
    """Shape and dtype of each array of `SampleScratch`; `classes` and `counters` are zero before and after a launch."""
    return {"classes": ((rows, 3, CLASSES), "uint32"), "counters": ((rows,), "uint32"),
            "firsts": ((rows, MAX_BLOCKS), "uint64"), "survivors": ((rows, vocab), "int32")}  # fmt: skip


def choose_blocks(vocab: int, candidates: bool, block_tokens: int = BLOCK_TOKENS) -> int:
    """Blocks of a row. Without candidates the highest logit has to be read first, by every block: there is one then."""
    return min(MAX_BLOCKS, ceil_div(vocab, block_tokens)) if candidates else 1


def instances(spec: ModelSpec, dtype: DType, weights: WeightFormat) -> Iterator[Instance]:
    """The one there is."""
    yield INSTANCE


def pack_settings(sampling: Sampling) -> NDArray[np.uint32]:
    """(6,) uint32, what the kernel reads: temperature float32, top_k, top_p float64, seed, low words first."""
    wide = np.array([np.float64(sampling.top_p).view(np.uint64), np.uint64(sampling.seed)]).view(np.uint32)
    narrow = [np.float32(sampling.temperature).view(np.uint32), np.uint32(min(sampling.top_k, MAX_VOCAB))]
    return np.concatenate([np.array(narrow, np.uint32), wide])


def sample(
    launcher: Launcher,
    logits: DeviceArray,
    settings: DeviceArray,
    state: SampleState,
    ring: DeviceArray,
    scratch: SampleScratch,
    *,
    stop_ids: DeviceArray | None = None,
    best_logits: DeviceArray | None = None,
    best_ids: DeviceArray | None = None,
    block_tokens: int = BLOCK_TOKENS,
) -> None:
    """Draws one token a row as `eet_demo.engine.sampling.sample` defines it, advances `state`, reports in `ring`.

    Args:
        logits: (rows, vocab) float32.
        settings: (6,) uint32 from `pack_settings`.
        ring: (entries, rows, 2) int32, memory the host can read while kernels run. A launch writes token (-1 for a row
            that had finished) and then sequence + 1 to entry sequence % entries, sequence being the row's before it.
        scratch: of `scratch_fields`, for at least these rows and this vocabulary.
        stop_ids: (n,) int32, -1 for unused places; None where no token stops.
        best_logits, best_ids: (rows, n) float32 and int32 of `norm_lm_head`, enough for greedy; None reads the logits.
        block_tokens: tokens for which a row gets one more block.

    Raises:
        UnsupportedError: a shape or dtype that the kernel does not have.
    """
    check_array("logits", logits, (None, None), "float32")
    rows, vocab = logits.shape
    if not 1 <= vocab <= MAX_VOCAB:
        raise UnsupportedError(f"a vocabulary of {vocab} tokens: 1 to {MAX_VOCAB} are supported")
    check_array("settings", settings, (SETTINGS,), "uint32")
    check_array("ring", ring, (None, rows, 2), "int32")
    for name, array in vars(state).items():
        check_array(name, array, (rows,), "int32")
    if stop_ids is not None:
        check_array("stop_ids", stop_ids, (None,), "int32")
    if (best_logits is None) != (best_ids is None):
        raise ValueError("best_logits and best_ids go together: both or neither")
    if best_logits is not None and best_ids is not None:
        check_array("best_logits", best_logits, (rows, None), "float32")
        check_array("best_ids", best_ids, best_logits.shape, "int32")
    for name, (shape, scratch_dtype) in scratch_fields(rows, vocab).items():
        check_array(name, getattr(scratch, name), (None, *shape[1:]), scratch_dtype)
    blocks = choose_blocks(vocab, best_logits is not None, block_tokens)
    launcher.launch(
        INSTANCE,
        LaunchConfig(THREADS, (blocks, rows, 1), overlaps=True),
        (logits, best_logits, best_ids, settings, stop_ids, state.request_rows, state.token_ids, state.positions,
         state.steps, state.finished, state.sequences, ring, scratch.classes, scratch.counters, scratch.firsts,
         scratch.survivors, np.int32(vocab),
         np.int32(0 if best_logits is None else best_logits.shape[1]),
         np.int32(0 if stop_ids is None else stop_ids.shape[0]), np.int32(ring.shape[0])),
    )  # fmt: skip
