"""The parent's end of the conversation with a worker: what was asked of it, and what it has said of itself."""

from __future__ import annotations

from typing import Any

from eet_demo.records import as_json
from eet_demo.sides.side import SideOptions
from eet_demo.worker.child import Child
from eet_demo.worker.outbox import Message

_ANSWERED = ("run", "logits", "roofline")
_ANSWERS = ("finished", "logits", "roofline", "error")
_UNSOUND = ("KernelFaultError", "WorkerError")


class WorkerHandle:
    """One worker for one side; begins to import its libraries at once.

    What has happened in the process is known once `poll` has seen the event. `taken`, `warmed` and `claimed_bytes` are
    notes of those who use it: a lane holds it (two equal sides are two workers), shapes it has run, and what memory it
    was granted beyond its bare process.
    """

    def __init__(self, options: SideOptions, child: Child) -> None:
        self.options = options
        self.config: dict[str, Any] | None = None
        self.base_bytes: int | None = None
        self.compiled_s: float | None = None
        self.kinds: dict[str, int] = {}
        self.busy = False
        self.sound = True
        self.taken = False
        self.warmed: set[tuple[int, ...]] = set()
        self.claimed_bytes = 0
        self._load_sent = False
        self._child = child
        self.send({"cmd": "import", "options": as_json(options)})

    @property
    def pid(self) -> int:
        return self._child.pid

    @property
    def alive(self) -> bool:
        return self._child.alive

    @property
    def loaded(self) -> bool:
        return self.config is not None

    @property
    def loading(self) -> bool:
        """Asked for its weights and not there yet."""
        return self._load_sent and not self.loaded

    @property
    def held_bytes(self) -> int:
        """Memory it has taken where it runs beyond its bare process: on the GPU, or resident on a host.

        A driver in a container does not always say what a process holds; the side's own figures do then.
        """
        sample = self.sample()
        if self.options.device == "cuda":
            return sample.get("device_process", _device_bytes(self.kinds))
        if self.base_bytes is None:
            return 0
        return max(0, sample.get("process", 0) - self.base_bytes)

    def load(self) -> None:
        """Asks for the weights; a second call does nothing. `loaded` turns true when a poll has seen the answer."""
        if not self._load_sent:
            self._load_sent = True
            self.send({"cmd": "load"})

    def send(self, command: Message) -> None:
        """Sends one command. A worker that is gone or cannot be reached is reported by `poll`, with its reason."""
        self.busy = self.busy or command["cmd"] in _ANSWERED
        self._child.write(command)

    def poll(self) -> list[Message]:
        """Events since the last poll, possibly none.

        Raises:
            WorkerError: the process has ended although nobody ended it; every event it sent was handed out before.
        """
        events = self._child.read()
        for event in events:
            self._note(event)
        return events

    def sample(self, unique: bool = False) -> dict[str, int]:
        """Its process's memory by kind, as the system has it; empty once it is gone."""
        return self._child.sample(unique)

    def end(self) -> None:
        """Ends the process: asked first, killed soon after. Safe to call twice, and on a dead one."""
        self._child.end()

    def kill(self) -> None:
        """Ends the process now: for one that is deaf inside a long call."""
        self._child.kill()

    def death(self) -> str:
        """How the process ended, in words, with the last line it wrote to stderr; ends it if it has not."""
        return self._child.death()

    def _note(self, event: Message) -> None:
        if event["event"] in _ANSWERS:
            self.busy = False
        if event["event"] == "error" and event["type"] in _UNSOUND:
            self.sound = False  # a GPU serves no process that had a fault on it: it must not race again
        if event["event"] in ("loaded", "memory"):
            self.kinds = event["kinds"]
        if event["event"] == "imported":
            self.base_bytes = event["process_bytes"]
        if event["event"] == "compiled":
            self.compiled_s = event["seconds"]
        if event["event"] == "loaded":
            self.config = event["config"]


def _device_bytes(kinds: dict[str, int]) -> int:
    """Bytes on the device by a side's own figures: torch's pool as allocated, or an arena's regions."""
    if "allocated" in kinds:
        return kinds["allocated"] + kinds["allocator_slack"]
    return sum(kinds.get(kind, 0) for kind in ("weights", "kv_cache_reserved", "workspace"))
