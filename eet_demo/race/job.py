"""What every lane of one race shares."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any

from eet_demo.machine.gpu import Gpu
from eet_demo.sides.side import RunRequest
from eet_demo.worker.pool import WorkerPool

Update = dict[str, Any]
"""Something small and JSON-able for the page; `kind` says what."""

Waiting = Generator[None, None, None]
"""Steps that yield whenever they wait."""

WARM_UP_TOKENS = 64
WARM_UP_PROMPT_TOKENS = 1024


class StopSign(threading.Event):
    """Set once a race is to end early; `why` is what its page says."""

    why = "stopped by the visitor"

    def end(self, why: str) -> None:
        """Ends the race for another reason than the visitor's."""
        self.why = why
        self.set()


@dataclass(frozen=True)
class LaneJob:
    """The work of one race.

    Args:
        post: takes one update for the page.
        stop: set once the race is to end: Stop was pressed, or its time is up.
        gpu: the one that CUDA uses here, whose memory is sampled too.
        full_warm_up: warm up with the whole prompt however long; else at most WARM_UP_PROMPT_TOKENS of each row.
        same_warm_up: warm up with the very request: on a GPU, graphs and compiled code are made for its lengths.
    """

    request: RunRequest
    pool: WorkerPool
    post: Callable[[Update], None]
    stop: StopSign
    gpu: Gpu | None = None
    full_warm_up: bool = False
    same_warm_up: bool = False

    def warm_up_request(self) -> RunRequest:
        """The run before the clock starts: the same rows, at most WARM_UP_TOKENS new tokens unless `same_warm_up`."""
        longest = None if self.full_warm_up or self.same_warm_up else WARM_UP_PROMPT_TOKENS
        prompts = tuple(row[:longest] for row in self.request.prompt_ids)
        new_tokens = self.request.new_tokens if self.same_warm_up else min(WARM_UP_TOKENS, self.request.new_tokens)
        return RunRequest(prompts, new_tokens, self.request.sampling)
