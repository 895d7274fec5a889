"""Workers without processes, on a machine with as much memory as a test says: what races are driven against in no time.

A fake worker speaks the protocol of `eet_demo.worker.process` at times of its own, on the clock of the test.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from eet_demo.errors import WorkerError
from eet_demo.machine.gpu import Gpu
from eet_demo.race.resources import RaceResources
from eet_demo.records import Hardware, RaceSettings, SideConfig, as_json
from eet_demo.sides.side import SideOptions
from eet_demo.worker.handle import WorkerHandle
from tests.fake_clock import FakeTime

BASE_BYTES = 1000
Message = dict[str, Any]


@dataclass
class Play:
    """What the workers of one side do. Times in seconds, `rate` in steps a second.

    Args:
        deaf: hears no Stop before its first token.
        hangs_in: a command that is never answered, without a sign of life.
        fails_in: a command, and the error's class and words that answer it.
        dies_in: a command that it does not survive.
        needs: bytes that the side is planned with.
        loaded, run: bytes held with the weights, and from the first run on.
        unseen: the driver says nothing of what the process holds on the GPU.
        gb_s, bytes_per_step: its answer to `roofline`.
    """

    import_s: float = 0.2
    compile_s: float = 0.0
    load_s: float = 1.0
    prefill_s: float = 0.5
    rate: float = 100.0
    differ_at: int = -1
    deaf: bool = False
    hangs_in: str = ""
    fails_in: tuple[str, str, str] = ("", "", "")
    dies_in: str = ""
    needs: int = 0
    loaded: int = 0
    run: int = 0
    unseen: bool = False
    gb_s: float | None = None
    bytes_per_step: int = 0


class FakeChild:
    """What `ChildProcess` is to a handle. `commands` are what it was sent."""

    def __init__(self, machine: FakeMachine, options: SideOptions, play: Play) -> None:
        self.pid = 1 + len(machine.children)
        self.options, self.play = options, play
        self.commands: list[str] = []
        self.held = 0
        self.ended = self.killed = False
        self._machine = machine
        self._events: list[tuple[int, Message]] = []
        self._free_ns = machine.time.now_ns
        self._first_token_ns = 0
        self._died_ns: int | None = None

    @property
    def alive(self) -> bool:
        died = self._died_ns is not None and self._died_ns <= self._machine.time.now_ns
        return not (self.ended or died)

    def write(self, command: Message) -> None:
        name = command["cmd"]
        self.commands.append("warm-up" if command.get("warm_up") else name)
        if name == "stop":
            self._stop()
        elif name == self.play.dies_in:
            self._died_ns = self._machine.time.now_ns + 100_000_000
        elif name == self.play.fails_in[0]:
            self._say(0.1, event="error", type=self.play.fails_in[1], message=self.play.fails_in[2])
        elif name != self.play.hangs_in:
            getattr(self, f"_do_{name}")(command)

    def read(self) -> list[Message]:
        now_ns = self._machine.time.now_ns
        due = [event for due_ns, event in self._events if due_ns <= now_ns]
        self._events = [(due_ns, event) for due_ns, event in self._events if due_ns > now_ns]
        for event in due:
            if event["event"] == "loaded":
                self._hold(self.play.loaded)
            if event["event"] == "finished":
                self._hold(self.play.run or self.play.loaded)
        if not due and not self.alive and not self.ended:
            raise WorkerError(self.death())
        return due

    def sample(self, unique: bool = False) -> dict[str, int]:
        if not self.alive:
            return {}
        if self.options.device != "cuda":
            return {"process": BASE_BYTES + self.held}
        return {"process": BASE_BYTES} | ({} if self.play.unseen else {"device_process": self.held})

    def end(self) -> None:
        self.ended, self.held = True, 0

    def kill(self) -> None:
        self.killed = True
        self.end()

    def death(self) -> str:
        return f"the worker of {self.options.side} was ended by signal 9 (SIGKILL) before it had finished"

    def _hold(self, size: int) -> None:
        self.held = size
        self._machine.check()

    def _do_import(self, command: Message) -> None:
        self._say(self.play.import_s, event="imported", process_bytes=BASE_BYTES)

    def _do_load(self, command: Message) -> None:
        self._say(self.play.compile_s, event="compiled", seconds=self.play.compile_s)
        options, kinds = self.options, {"weights": self.play.loaded}
        config = SideConfig(options.side, "fake", options.device, options.dtype, options.weights, options.threads)
        self._say(self.play.load_s, event="loaded", config=as_json(config), kinds=kinds, seconds=self.play.load_s)

    def _do_run(self, command: Message) -> None:
        request, quiet = command["request"], command["warm_up"]
        if not quiet:
            self._say(0, event="started", t0_ns=max(self._free_ns, self._machine.time.now_ns))
        self._say(self.play.prefill_s)
        self._first_token_ns = self._free_ns
        for step in range(request["new_tokens"]):
            self._say(1 / self.play.rate if step else 0)
            if not quiet:
                rows = list(range(len(request["prompt_ids"])))
                ids = [request["prompt_ids"][row][0] + (0 <= self.play.differ_at <= step) for row in rows]
                self._say(0, event="tokens", row=rows, time_ns=[self._free_ns] * len(rows), id=ids)
        self._say(0, event="finished", warm_up=quiet, stopped=False)

    def _do_logits(self, command: Message) -> None:
        values = [[1.0 - 0.25 * at for at in range(len(wanted))] for wanted in command["token_ids"]]
        self._say(0.1, event="logits", values=values)

    def _do_roofline(self, command: Message) -> None:
        self._say(0.1, event="roofline", bytes_per_step=self.play.bytes_per_step, bandwidth_gb_s=self.play.gb_s)

    def _do_close(self, command: Message) -> None:
        self.end()

    def _say(self, after_s: float, **event: Any) -> None:
        """The next event of a worker that does one thing after another; every second of work has a sign of life."""
        begin_ns = max(self._free_ns, self._machine.time.now_ns)
        self._free_ns = begin_ns + round(after_s * 1e9)
        self._events += [(at, {"event": "alive"}) for at in range(begin_ns + 10**9, self._free_ns, 10**9)]
        if event:
            self._events.append((self._free_ns, json.loads(json.dumps(event))))

    def _stop(self) -> None:
        now_ns = self._machine.time.now_ns
        if self._free_ns <= now_ns or (self.play.deaf and now_ns < self._first_token_ns):
            return
        if not any(event["event"] == "finished" for _, event in self._events):
            return  # nobody can be stopped inside a load
        self._events = [(due_ns, event) for due_ns, event in self._events if due_ns <= now_ns]
        self._free_ns = now_ns
        self._say(0.01, event="finished", warm_up=False, stopped=True)


@dataclass
class FakeMachine:
    """A machine with so much memory for weights; who holds more than there is has met the OOM killer.

    `plays` are by the side's name, or by it and the dtype: `stock bfloat16`.
    """

    time: FakeTime
    total_bytes: int = 10**9
    plays: dict[str, Play] = field(default_factory=dict)
    children: list[FakeChild] = field(default_factory=list)

    def start(self, options: SideOptions, gpu: Gpu | None = None) -> WorkerHandle:
        child = FakeChild(self, options, self.play_of(options))
        self.children.append(child)
        return WorkerHandle(options, child)

    def play_of(self, options: SideOptions) -> Play:
        return self.plays.get(f"{options.side} {options.dtype}") or self.plays.setdefault(options.side, Play())

    def available(self) -> int:
        return self.total_bytes - sum(child.held for child in self.children)

    def check(self) -> None:
        assert self.available() >= 0, f"out of memory: {[(child.options.side, child.held) for child in self.children]}"

    def resident(self) -> list[str]:
        """Sides that hold something now."""
        return [child.options.side for child in self.children if child.held]

    def of(self, side: str) -> list[FakeChild]:
        """Every worker that a side has had."""
        return [child for child in self.children if child.options.side == side]


def resources_of(machine: FakeMachine, models_dir: Path) -> RaceResources:
    """What races on that machine share."""
    return RaceResources(
        models_dir,
        Hardware("fake machine", 2, machine.total_bytes),
        2,
        machine.available,
        catalogue_only=False,
        allow_scripted=True,
        start=machine.start,
        clock=machine.time.clock,
    )


def write_model(folder: Path) -> str:
    """A model without weights and tokenizer, whose prompts are random ids; its name."""
    (folder / "config.json").write_text('{"vocab_size": 50, "max_position_embeddings": 4096}', encoding="utf-8")
    return str(folder)


def settings_of(model: str, *sides: str, **changed: Any) -> RaceSettings:
    return RaceSettings(model, **{"context": 8, "new_tokens": 11, "sides": sides or ("stock", "engine"), **changed})
