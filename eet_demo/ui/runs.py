"""The races of this server's visitors: one at a time per visitor, with what their pages were sent."""

from __future__ import annotations

import secrets
import threading
from collections import deque
from collections.abc import Iterator
from typing import Any, Literal, Protocol

from eet_demo.declared import Limits
from eet_demo.records import RaceSettings

Update = dict[str, Any]
Payload = dict[str, Any]

KEPT_PAYLOADS = 4096
"""Of one run, the newest: some minutes' worth, for a page that missed the last seconds."""


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

    def __init__(self, session: str, settings: RaceSettings | None = None) -> None:
        self.id = secrets.token_urlsafe(12)
        self.session = session
        self.settings = settings
        self.trace: dict[str, Any] | None = None
        self._payloads: deque[Payload] = deque(maxlen=KEPT_PAYLOADS)
        self._sent = self._beats = 0
        self._race: RaceLike | None = None
        self._state: Literal["waiting", "running", "over"] = "waiting"
        self._lock = threading.Lock()

    @property
    def running(self) -> bool:
        return self._state == "running"

    def payload(self, *updates: Update) -> Payload:
        """The stage's next value: numbered, so that the page notices when the browser skipped one."""
        kept = [self._keep_trace(update) for update in updates]
        with self._lock:
            payload = {"run": self.id, "seq": self._sent, "updates": kept}
            self._sent += 1
            self._payloads.append(payload)
        return payload

    def sign_of_life(self) -> Payload:
        """A value that says nothing: the page hears that the server is there, and nobody asks for it again.

        `beat` makes it differ from the last one: Gradio sends nothing where nothing changed.
        """
        self._beats += 1
        return {"run": self.id, "seq": -1, "beat": self._beats, "updates": []}

    def since(self, seq: int) -> list[Payload]:
        """Every payload from number `seq` on; without the first ones where they are not kept any more."""
        with self._lock:
            return [payload for payload in self._payloads if payload["seq"] >= seq]

    def start(self, race: RaceLike) -> bool:
        """Hands over the race that runs now; False when it must not: stopped before its turn, or run already."""
        with self._lock:
            if self._state != "waiting":
                return False
            self._race, self._state = race, "running"
            return True

    def stop(self) -> bool:
        """Stops the race; True when it was still waiting in the queue, where it never begins now."""
        with self._lock:
            waited = self._state == "waiting"
            if waited:
                self._state = "over"
            race = self._race
        if race is not None:
            race.stop()
        return waited

    def finish(self) -> None:
        """The race has ended: what it holds is let go, its payloads and trace stay."""
        with self._lock:
            self._race, self._state = None, "over"

    def _keep_trace(self, update: Update) -> Update:
        """The page has every column already: the trace stays here until it is downloaded."""
        if update["kind"] != "result":
            return update
        self.trace = update["trace"]
        kept = {key: value for key, value in update.items() if key != "trace"}
        return kept | {"notes": self.trace.get("notes", [])}


class Runs:
    """The newest `kept` runs, by session and by id. Thread-safe.

    A client that comes once and never says that it left costs an older run its place, but never the one that runs.
    """

    def __init__(self, kept: int = Limits().kept_runs) -> None:
        self._kept = kept
        self._by_id: dict[str, Run] = {}  # oldest first
        self._by_session: dict[str, Run] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        """Runs that are held, by whatever they can be found."""
        with self._lock:
            return len({id(run) for run in [*self._by_id.values(), *self._by_session.values()]})

    def begin(self, session: str, settings: RaceSettings | None = None) -> Run:
        """A new run of this visitor; one that must make room and still waits in the queue is ended."""
        run = Run(session, settings)
        self.leave(session)  # a visitor has one race at a time
        forgotten: list[Run] = []
        with self._lock:
            while len(self._by_id) >= self._kept:
                forgotten.append(self._forget_one())
            self._by_session[session] = run
            self._by_id[run.id] = run
        for old in forgotten:
            old.stop()
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

    def _forget_one(self) -> Run:
        """Takes out the oldest run that is not running; the lock is held."""
        runs = self._by_id.values()
        old = next((run for run in runs if not run.running), next(iter(runs)))
        del self._by_id[old.id]
        if self._by_session.get(old.session) is old:
            del self._by_session[old.session]
        return old
