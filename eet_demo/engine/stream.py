"""Who may use an engine: one at a time, until it is closed."""

from __future__ import annotations

import threading
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from typing import Generic, TypeVar

from eet_demo.errors import EngineBusyError, EngineClosedError

Item = TypeVar("Item")


class Door:
    """Lets one user in at a time, and nobody once it is closed."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.closed = False

    def enter(self) -> None:
        """Raises EngineClosedError, or EngineBusyError while another user is inside."""
        if not self._lock.acquire(blocking=False):
            if self.closed:
                raise EngineClosedError("this engine is closed; load the model again to use it")
            raise EngineBusyError("this engine is already generating; wait for it, or close the other stream")

    def leave(self) -> None:
        self._lock.release()

    def close(self) -> None:
        """Enters for good. Raises as `enter` does."""
        self.enter()
        self.closed = True

    @contextmanager
    def held(self) -> Iterator[None]:
        self.enter()
        try:
            yield
        finally:
            self.leave()


class Stream(Generic[Item]):
    """An iterator that holds its engine from the request to its end; closing it, or dropping it, lets go."""

    _open = False

    def __init__(self, items: Generator[Item], door: Door) -> None:
        door.enter()
        self._items, self._door, self._open = items, door, True

    def __iter__(self) -> Stream[Item]:
        return self

    def __next__(self) -> Item:
        if not self._open:
            raise StopIteration
        try:
            return next(self._items)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Cancels what is left; twice is once."""
        if self._open:
            self._open = False
            try:
                self._items.close()
            finally:
                self._door.leave()

    def __del__(self) -> None:
        self.close()
