"""Everything measured on one side of one race, in columns, and its form in the trace."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from eet_demo.machine.cpu_use import OthersUse
from eet_demo.records import as_json
from eet_demo.text.tokens import IncrementalDecoder

NewDecoder = Callable[[], IncrementalDecoder]


class RowTexts:
    """Turns the ids of each row into text as they come; a row's last token carries the flushed remainder."""

    def __init__(
        self,
        rows: int,
        new_tokens: int,
        new_decoder: NewDecoder,
        end_ids: Collection[int],
        stop_ids: Collection[int],
    ) -> None:
        self._decoders = [new_decoder() for _ in range(rows)]
        self._counts = [0] * rows
        self._ended = [False] * rows
        self._flushed = [False] * rows
        self._new_tokens = new_tokens
        self._end_ids = frozenset(end_ids)
        self._stop_ids = frozenset(stop_ids)

    def push(self, row: int, token_id: int) -> tuple[str, bool]:
        """The text that a token completes, and whether it stands after the row's first end-of-sequence."""
        after_end = self._ended[row]
        text = self._decoders[row].push(token_id)
        self._counts[row] += 1
        self._ended[row] = after_end or token_id in self._end_ids
        if self._counts[row] == self._new_tokens or token_id in self._stop_ids:
            text += self.flush(row)
        return text, after_end

    def flush(self, row: int) -> str:
        """What the row's decoder still holds; empty the second time."""
        if self._flushed[row]:
            return ""
        self._flushed[row] = True
        return self._decoders[row].flush()


class SideRecord:
    """Columns of one side. Times come in as perf_counter_ns and go out as nanoseconds from this side's t0.

    `others` is what else used the processors while it was timed; None where that is not known.
    """

    def __init__(self, name: str, texts: RowTexts) -> None:
        self.name = name
        self.state = "waiting"
        self.config: Mapping[str, Any] | None = None
        self.error: dict[str, str] | None = None
        self.t0_ns: int | None = None
        self.others: OthersUse | None = None
        self.tokens: dict[str, list[Any]] = {"row": [], "time_ns": [], "id": [], "text": [], "after_end": []}
        self._texts = texts
        self._phases: list[tuple[str, int, int, str]] = []
        self._progress: list[tuple[int, int, int]] = []
        self._memory: list[tuple[int, Mapping[str, int]]] = []

    def start(self, t0_ns: int) -> None:
        self.t0_ns = t0_ns

    def phase(self, name: str, start_ns: int, end_ns: int, detail: str = "") -> None:
        self._phases.append((name, start_ns, end_ns, detail))

    def add_tokens(self, rows: Sequence[int], times_ns: Sequence[int], ids: Sequence[int]) -> dict[str, list[Any]]:
        """Takes columns from the worker; returns the same as update columns: times from t0, with text."""
        assert self.t0_ns is not None
        pairs = [self._texts.push(row, token_id) for row, token_id in zip(rows, ids, strict=True)]
        columns: dict[str, list[Any]] = {
            "row": list(rows),
            "time_ns": [time_ns - self.t0_ns for time_ns in times_ns],
            "id": list(ids),
            "text": [text for text, _ in pairs],
            "after_end": [after_end for _, after_end in pairs],
        }
        for name, column in columns.items():
            self.tokens[name] += column
        return columns

    def add_progress(self, time_ns: int, done: int, total: int) -> None:
        self._progress.append((time_ns, done, total))

    def add_memory(self, time_ns: int, kinds: Mapping[str, int]) -> None:
        self._memory.append((time_ns, kinds))

    def finish(self, end_ns: int) -> None:
        """Closes a run: prefill and decode become phases; rows cut short give up what their decoders hold."""
        times = self.tokens["time_ns"]
        if self.t0_ns is not None:
            first_ns = self.t0_ns + times[0] if times else end_ns
            self.phase("prefill", self.t0_ns, first_ns)
            if times:
                self.phase("decode", first_ns, self.t0_ns + times[-1])
        last_of_row = {row: index for index, row in enumerate(self.tokens["row"])}
        for row, index in last_of_row.items():
            self.tokens["text"][index] += self._texts.flush(row)

    def relative_ns(self, time_ns: int) -> int | None:
        """Nanoseconds from t0; None before it is known."""
        return time_ns - self.t0_ns if self.t0_ns is not None else None

    def as_json(self) -> dict[str, Any]:
        """This side of the trace."""
        starts = [start_ns for _, start_ns, _, _ in self._phases] + [time_ns for time_ns, _ in self._memory]
        t0_ns = self.t0_ns if self.t0_ns is not None else min(starts, default=0)
        return {
            "name": self.name,
            "state": self.state,
            "config": self.config,
            "phases": [
                {"name": name, "start_ns": start_ns - t0_ns, "end_ns": end_ns - t0_ns, "detail": detail}
                for name, start_ns, end_ns, detail in self._phases
            ],
            "tokens": {name: list(column) for name, column in self.tokens.items()},
            "progress": {
                "time_ns": [time_ns - t0_ns for time_ns, _, _ in self._progress],
                "done": [done for _, done, _ in self._progress],
                "total": [total for _, _, total in self._progress],
            },
            "memory": self._memory_columns(t0_ns),
            "others": as_json(self.others),
            "error": self.error,
        }

    def _memory_columns(self, t0_ns: int) -> dict[str, list[int | None]]:
        kinds = sorted({kind for _, sample in self._memory for kind in sample})
        columns: dict[str, list[int | None]] = {"time_ns": [time_ns - t0_ns for time_ns, _ in self._memory]}
        return columns | {f"{kind}_bytes": [sample.get(kind) for _, sample in self._memory] for kind in kinds}
