"""Time that passes only where somebody sleeps."""

from __future__ import annotations

from collections.abc import Callable

from eet_demo.clock import Clock


class FakeTime:
    """`clock` is handed out, `now_ns` is its time, and what was planned by `at` happens while somebody sleeps."""

    def __init__(self) -> None:
        self.now_ns = 1_000_000_000
        self._planned: list[tuple[int, Callable[[], object]]] = []

    @property
    def clock(self) -> Clock:
        return Clock(lambda: self.now_ns, self.sleep)

    def at(self, seconds: float, do: Callable[[], object]) -> None:
        """Calls `do` that many seconds from now, in the middle of a sleep."""
        self._planned.append((self.now_ns + round(seconds * 1e9), do))

    def sleep(self, seconds: float) -> None:
        end_ns = self.now_ns + round(seconds * 1e9)
        while due := [planned for planned in self._planned if planned[0] <= end_ns]:
            first = min(due, key=lambda planned: planned[0])
            self._planned.remove(first)
            self.now_ns = max(self.now_ns, first[0])
            first[1]()
        self.now_ns = end_ns
