"""Workers that stay between races: the same side with the same options keeps its weights in memory."""

from __future__ import annotations

import threading
from collections.abc import Collection

from eet_demo.race.handle import WorkerHandle
from eet_demo.sides import SideOptions


class WorkerPool:
    """Worker processes by what they are. Thread-safe; one race uses it at a time."""

    def __init__(self) -> None:
        self._handles: list[WorkerHandle] = []
        self._lock = threading.Lock()

    def resident(self, options: SideOptions) -> WorkerHandle | None:
        """The idle live worker of exactly these options, if there is one."""
        with self._lock:
            return next((h for h in self._handles if h.options == options and h.alive and not h.busy), None)

    def acquire(self, options: SideOptions) -> WorkerHandle:
        """A worker of these options: a resident one, or a fresh process that has begun to import its libraries."""
        handle = self.resident(options)
        if handle is None:
            handle = WorkerHandle(options)
            with self._lock:
                self._handles.append(handle)
        return handle

    def replace(self, handle: WorkerHandle) -> None:
        """Kills a worker that does not answer and starts a fresh one that loads meanwhile, for the next race."""
        handle.kill()
        self._forget(handle)
        self.acquire(handle.options).load()

    def end(self, handle: WorkerHandle) -> None:
        """Ends a worker and gives its memory back."""
        handle.end()
        self._forget(handle)

    def retain(self, wanted: Collection[SideOptions]) -> None:
        """Ends every worker that is dead, busy with something nobody waits for, or not one of `wanted`."""
        with self._lock:
            surplus = [h for h in self._handles if not h.alive or h.busy or h.options not in wanted]
        for handle in surplus:
            self.end(handle)

    def close(self) -> None:
        """Ends every worker."""
        self.retain(())

    def _forget(self, handle: WorkerHandle) -> None:
        with self._lock:
            self._handles = [kept for kept in self._handles if kept is not handle]
