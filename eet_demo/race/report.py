"""One side of a race as it is told and kept: updates for the page, and the same in the columns of its record."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from eet_demo.clock import Clock
from eet_demo.errors import EetError
from eet_demo.results.record import SideRecord
from eet_demo.worker.outbox import Message

Update = dict[str, Any]
"""Something small and JSON-able for the page; `kind` says what."""

MEMORY_EVERY_NS = 100_000_000


class SideReport:
    """Books what happens to the side at `index`; `record` holds what was measured."""

    def __init__(self, index: int, record: SideRecord, post: Callable[[Update], None], clock: Clock) -> None:
        self.record = record
        self._index, self._clock = index, clock
        self._post_update = post
        self._memory_due_ns = 0

    def state(self, state: str, detail: str) -> None:
        if state in ("waiting", "done", "failed", "stopped"):
            self.record.state = state
        self._post(kind="state", state=state, detail=detail)

    def error(self, error: EetError) -> None:
        """Why this side runs no further."""
        self.record.error = {"message": str(error), "remedy": error.remedy}
        self._post(kind="error", **self.record.error)
        self.state("failed", str(error))

    def config(self, config: Mapping[str, Any] | None) -> None:
        """What the side really is; said once a record."""
        if self.record.config is None:
            self.record.config = config
            self._post(kind="config", config=config)

    def event(self, event: Message) -> None:
        """What a worker sends during a run."""
        kind = event["event"]
        if kind == "started":
            self.record.start(event["t0_ns"])
        elif kind == "tokens":
            if not self.record.tokens["row"]:
                self.state("decoding", "writing")
            self._post(kind="tokens", **self.record.add_tokens(event["row"], event["time_ns"], event["id"]))
        elif kind == "progress":
            self.record.add_progress(event["time_ns"], event["done"], event["total"])
            self._post(kind="progress", done=event["done"], total=event["total"])

    @property
    def memory_is_due(self) -> bool:
        """Whether the last sample is MEMORY_EVERY_NS old."""
        return self._clock.now_ns() >= self._memory_due_ns

    def memory(self, kinds: Mapping[str, int]) -> None:
        """One sample of every kind there is; nothing is kept of a process that is gone."""
        now_ns = self._clock.now_ns()
        self._memory_due_ns = now_ns + MEMORY_EVERY_NS
        if "process" not in kinds:
            return
        self.record.add_memory(now_ns, kinds)
        columns = {f"{kind}_bytes": [value] for kind, value in kinds.items()}
        self._post(kind="memory", time_ns=[self.record.relative_ns(now_ns)], **columns)

    def _post(self, **update: Any) -> None:
        self._post_update({"side": self._index, **update})
