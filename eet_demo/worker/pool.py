"""Workers that stay between races: the same side with the same options keeps its weights in memory."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor

from eet_demo.machine.gpu import Gpu
from eet_demo.sides.names import parse_side
from eet_demo.sides.side import SideOptions
from eet_demo.worker.child import ChildProcess
from eet_demo.worker.handle import WorkerHandle


def start_worker(options: SideOptions, gpu: Gpu | None = None) -> WorkerHandle:
    """A worker in a process of its own, whose memory is sampled on the `gpu` too."""
    return WorkerHandle(options, ChildProcess(options.side, gpu))


class WorkerPool:
    """Worker processes by what they are. Thread-safe; one race uses it at a time.

    Processes are started by a thread as old as the pool: on Linux niceness belongs to a thread and is inherited, so a
    web server that makes itself nice after it has made its pool keeps its workers at full priority.
    """

    def __init__(self, start: Callable[[SideOptions], WorkerHandle] = start_worker) -> None:
        self._start = start
        self._starter = ThreadPoolExecutor(max_workers=1, thread_name_prefix="worker starter")
        self._starter.submit(int).result()  # the thread exists from here on
        self._handles: list[WorkerHandle] = []
        self._lock = threading.Lock()

    @property
    def handles(self) -> Sequence[WorkerHandle]:
        """Every worker there is at this moment."""
        with self._lock:
            return list(self._handles)

    def has(self, options: SideOptions) -> bool:
        """Whether there is a live worker of these options, taken or not."""
        return any(handle.alive and same_worker(handle.options, options) for handle in self.handles)

    def acquire(self, options: SideOptions) -> WorkerHandle:
        """Takes a worker of these options: a resident one, or a fresh process that begins to import its libraries."""
        with self._lock:
            free = (handle for handle in self._handles if _usable(handle) and not handle.taken)
            handle = next((handle for handle in free if same_worker(handle.options, options)), None)
            if handle is None:
                handle = self._starter.submit(self._start, options).result()
                self._handles.append(handle)
            handle.taken = True
            return handle

    def preload(self, options: SideOptions) -> WorkerHandle:
        """Begins to load a worker of these options for a race to come; nobody has taken it yet."""
        handle = self.acquire(options)
        handle.load()
        handle.taken = False
        return handle

    def end(self, handle: WorkerHandle) -> None:
        """Ends a worker and gives its memory back."""
        handle.end()
        self._forget(handle)

    def kill(self, handle: WorkerHandle) -> None:
        """Ends one that does not answer, or that cannot be trusted any more."""
        handle.kill()
        self._forget(handle)

    def retain(self, wanted: Collection[SideOptions]) -> None:
        """Ends every worker that is dead, busy with something nobody waits for, or not one of `wanted`."""
        surplus = [
            handle
            for handle in self.handles
            if not _usable(handle) or not any(same_worker(handle.options, options) for options in wanted)
        ]
        for handle in surplus:
            self.end(handle)

    def close(self) -> None:
        """Ends every worker."""
        self.retain(())

    def _forget(self, handle: WorkerHandle) -> None:
        with self._lock:
            self._handles = [kept for kept in self._handles if kept is not handle]


def _usable(handle: WorkerHandle) -> bool:
    return handle.alive and handle.sound and not handle.busy


def same_worker(one: SideOptions, other: SideOptions) -> bool:
    """Whether a worker loaded for one also serves the other: one that allocates by the run does."""
    if parse_side(one.side).kind.allocates == "run":
        other = dataclasses.replace(other, max_batch=one.max_batch, max_context=one.max_context)
    return one == other
