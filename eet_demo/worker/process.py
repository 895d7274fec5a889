"""One side in a process of its own: `python -m eet_demo.worker`. Newline-delimited JSON in and out.

Commands on stdin: import, load, run, stop, logits, roofline, close. Events go to the original stdout; `print()` and
libraries write to stderr. The timed thread appends a token to a queue and does no more; a sender thread batches by
time. The end of stdin (the parent is gone) ends the process at once, whatever it is doing. Times are
`perf_counter_ns`, one clock for all processes of a machine.
"""

from __future__ import annotations

import json
import os
import queue
import sys
import threading
import traceback
from collections.abc import Mapping
from typing import Any, TextIO

from eet_demo.clock import Clock
from eet_demo.errors import EetError
from eet_demo.records import Sampling, as_json
from eet_demo.sides.build import build_side
from eet_demo.sides.side import RunRequest, Side, SideOptions, StopRun
from eet_demo.worker import memory
from eet_demo.worker.outbox import Message, Outbox, WorkerSink, error_event, memory_event


class Worker:
    """Executes one command after another on the main thread; Stop arrives through an event."""

    def __init__(self, outbox: Outbox, stop: threading.Event, clock: Clock | None = None) -> None:
        self._outbox = outbox
        self._stop = stop
        self._clock = clock or Clock()
        self._side: Side | None = None

    def execute(self, command: Message) -> None:
        """Runs one command and reports its end; whatever goes wrong becomes an `error` event."""
        try:
            with self._outbox.at_work():
                getattr(self, f"_do_{command['cmd']}")(command)
        except Exception as error:
            if not isinstance(error, EetError | MemoryError):
                # A fault of a library or of ours: the traceback goes to stderr, the words to the page.
                traceback.print_exc()
            self._outbox.put(error_event(error, command["cmd"]))

    def _do_import(self, command: Message) -> None:
        """Builds the side, its libraries imported and nothing loaded: what this process weighs before its model."""
        self._side = build_side(SideOptions(**command["options"]))
        self._outbox.put({"event": "imported", "process_bytes": memory.process_bytes(os.getpid())})

    def _do_load(self, command: Message) -> None:
        side = self._built_side()
        begin_ns = self._clock.now_ns()
        side.compile()
        self._outbox.put({"event": "compiled", "seconds": (self._clock.now_ns() - begin_ns) / 1e9})
        begin_ns = self._clock.now_ns()
        config = as_json(side.load())
        seconds = (self._clock.now_ns() - begin_ns) / 1e9
        self._outbox.put({"event": "loaded", "config": config, "kinds": dict(side.memory_bytes()), "seconds": seconds})

    def _do_run(self, command: Message) -> None:
        side, request = self._built_side(), request_from_json(command["request"])
        warm_up = bool(command["warm_up"])
        memory.reset_peak()
        finished: Message = {"event": "finished", "warm_up": warm_up, "stopped": False}
        try:
            with self._outbox.running(side):
                clock = side.run(request, WorkerSink(self._outbox, self._stop, self._clock, warm_up))
            finished |= {"t0_ns": clock.start_ns, "end_ns": clock.end_ns}
        except StopRun:
            finished |= {"t0_ns": None, "end_ns": self._clock.now_ns(), "stopped": True}
        self._outbox.put(memory_event(side, self._clock.now_ns()))
        self._outbox.put(finished)

    def _do_logits(self, command: Message) -> None:
        """Logits of `token_ids[i]` (a few ids) after each prefix `ids[i]`: the whole vocabulary need not travel."""
        side = self._built_side()
        values = [
            [float(side.logits_at(prefix)[token_id]) for token_id in wanted]
            for prefix, wanted in zip(command["ids"], command["token_ids"], strict=True)
        ]
        self._outbox.put({"event": "logits", "values": values})

    def _do_roofline(self, command: Message) -> None:
        roofline = self._built_side().roofline(command["context"], command["batch"])
        self._outbox.put({"event": "roofline", **as_json(roofline)})

    def close(self) -> None:
        if self._side is not None:
            self._side.close()

    def _built_side(self) -> Side:
        if self._side is None:
            raise EetError("the worker has no side yet: the command import comes first")
        return self._side


def request_from_json(fields: Mapping[str, Any]) -> RunRequest:
    """A `RunRequest` from its JSON form (`as_json` of the record)."""
    return RunRequest(
        prompt_ids=tuple(tuple(row) for row in fields["prompt_ids"]),
        new_tokens=fields["new_tokens"],
        sampling=Sampling(**fields["sampling"]),
        stop_token_ids=tuple(fields["stop_token_ids"]),
    )


def read_commands(commands: queue.SimpleQueue[Message], stop: threading.Event) -> None:
    """Feeds the main thread from stdin until `close`; the end of stdin, or what is no command, ends the process."""
    try:
        for line in sys.stdin:
            command: Message = json.loads(line)
            if command["cmd"] == "stop":
                stop.set()  # overtakes the queue
                continue
            if command["cmd"] == "run":
                stop.clear()
            commands.put(command)
            if command["cmd"] == "close":
                return
        os._exit(0)
    except Exception:
        # Deaf to its parent, a worker could outlive it.
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)


def claim_stdout() -> TextIO:
    """The original stdout for events alone; whatever prints from now on writes to stderr."""
    events = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    return events


def main() -> None:
    stop = threading.Event()
    commands: queue.SimpleQueue[Message] = queue.SimpleQueue()
    outbox = Outbox(claim_stdout())
    outbox.start()
    worker = Worker(outbox, stop)
    threading.Thread(target=read_commands, args=(commands, stop), name="commands", daemon=True).start()
    while (command := commands.get())["cmd"] != "close":
        worker.execute(command)
    worker.close()
    outbox.close()
