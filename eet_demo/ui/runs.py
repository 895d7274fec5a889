"""The races of this server's visitors: one at a time per visitor, with what their pages were sent."""

from __future__ import annotations

import secrets
import threading
from collections import OrderedDict
from collections.abc import Iterator
from typing import Any, Protocol

from eet_demo.records import RaceSettings

Update = dict[str, Any]
Payload = dict[str, Any]

KEPT_RUNS = 32


class RaceLike(Protocol):
    """What the page needs of a race (`eet_demo.race.race.Race`)."""

    def run(self) -> Iterator[list[Update]]:
        """Updates about 20 times a second; ends after the one of kind `result`. Closing it stops the race."""

    def stop(self) -> None:
        """Any thread, any moment."""


class Run:
    """One press of Race: queued, running, then kept for a while so that the page can ask again.

    `id` cannot be guessed: whoever knows it may read the run's updates and trace.
    """

    def __init__(self, settings: RaceSettings | None = None) -> None:
        self.id = secrets.token_urlsafe(12)
        self.settings = settings
        self.trace: dict[str, Any] | None = None
        self._payloads: list[Payload] = []
        self._race: RaceLike | None = None
        self._stopped = False
        self._lock = threading.Lock()

    def payload(self, *updates: Update) -> Payload:
        """The stage's next value: numbered, so that the page notices when the browser skipped one."""
        kept = [self._keep_trace(update) for update in updates]
        with self._lock:
            payload = {"run": self.id, "seq": len(self._payloads), "updates": kept}
            self._payloads.append(payload)
        return payload

    def since(self, seq: int) -> list[Payload]:
        """Every payload from number `seq` on."""
        with self._lock:
            return self._payloads[max(0, seq) :]

    def start(self, race: RaceLike) -> bool:
        """Hands over the race that runs; False when the visitor stopped before it could begin."""
        with self._lock:
            self._race = race
            return not self._stopped

    def stop(self) -> bool:
        """Stops the race; True when it was still waiting in the queue."""
        with self._lock:
            self._stopped = True
            race = self._race
        if race is not None:
            race.stop()
        return race is None

    def _keep_trace(self, update: Update) -> Update:
        """The page has every column already: the trace stays here until it is downloaded."""
        if update["kind"] != "result":
            return update
        self.trace = update["trace"]
        kept = {key: value for key, value in update.items() if key != "trace"}
        return kept | {"notes": self.trace.get("notes", [])}


class Runs:
    """Runs by session and by id. Thread-safe; the oldest beyond KEPT_RUNS are forgotten."""

    def __init__(self) -> None:
        self._by_id: OrderedDict[str, Run] = OrderedDict()
        self._by_session: dict[str, Run] = {}
        self._lock = threading.Lock()

    def begin(self, session: str, settings: RaceSettings | None = None) -> Run:
        """A new run of this visitor."""
        run = Run(settings)
        self.leave(session)  # a visitor has one race at a time
        with self._lock:
            self._by_session[session] = run
            self._by_id[run.id] = run
            while len(self._by_id) > KEPT_RUNS:
                self._by_id.popitem(last=False)
        return run

    def of_session(self, session: str) -> Run | None:
        """The visitor's latest run."""
        with self._lock:
            return self._by_session.get(session)

    def of_id(self, run_id: str) -> Run | None:
        with self._lock:
            return self._by_id.get(run_id)

    def leave(self, session: str) -> None:
        """The visitor is gone: whatever runs for them stops."""
        with self._lock:
            run = self._by_session.pop(session, None)
        if run is not None:
            run.stop()
