"""One side in a process of its own: `python -m eet_demo.worker`. Newline-delimited JSON in and out.

Commands on stdin: import, load, run, stop, logits, roofline, close. Events go to the original stdout; `print()` and
libraries write to stderr. The timed thread appends a token to a queue and does no more; a sender thread batches by
time. The end of stdin (the parent is gone) ends the process at once, whatever it is doing. Times are
`perf_counter_ns`, one clock for all processes of a machine.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TextIO

from eet_demo.errors import EetError
from eet_demo.records import Sampling, as_json
from eet_demo.sides.build import build_side
from eet_demo.sides.side import RunRequest, Side, SideOptions, StopRun
from eet_demo.worker import memory

SEND_EVERY_S = 0.025
MEMORY_EVERY_S = 0.1

Message = dict[str, Any]


class Outbox:
    """What waits to be sent: `put` and `step` from any thread, written by one sender thread."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._waiting: deque[Message | tuple[int, Sequence[int | None]]] = deque()
        self._wake = threading.Event()
        self._side: Side | None = None
        self._running = False
        self._sender = threading.Thread(target=self._send_forever, name="sender", daemon=True)
        self._sender.start()

    def put(self, message: Message) -> None:
        """Sends `message` soon: the sender wakes for it."""
        self._waiting.append(message)
        self._wake.set()

    def step(self, time_ns: int, token_ids: Sequence[int | None]) -> None:
        """Sends one decode step with the next batch; never wakes the sender (a deque's append is atomic)."""
        self._waiting.append((time_ns, token_ids))

    @contextlib.contextmanager
    def running(self, side: Side) -> Iterator[None]:
        """While open, the sender wakes every SEND_EVERY_S and reports `side`'s memory by kind."""
        self._side, self._running = side, True
        self._wake.set()
        try:
            yield
        finally:
            self._running = False

    def close(self) -> None:
        """Returns when everything put so far is written."""
        self.put({"event": "closed"})
        self._sender.join(timeout=5)

    def _send_forever(self) -> None:
        memory_due_s = 0.0
        while True:
            self._wake.wait(SEND_EVERY_S if self._running else None)
            self._wake.clear()
            if self._running and self._side is not None and time.perf_counter() >= memory_due_s:
                memory_due_s = time.perf_counter() + MEMORY_EVERY_S
                self._waiting.append(memory_event(self._side))
            if self._drain():
                return

    def _drain(self) -> bool:
        """Writes everything that waits; consecutive steps become one event. True after `closed`."""
        messages: list[Message] = []
        closed = False
        while self._waiting:
            item = self._waiting.popleft()
            if isinstance(item, dict):
                messages.append(item)
                closed = closed or item["event"] == "closed"
                continue
            if not messages or messages[-1]["event"] != "tokens":
                messages.append({"event": "tokens", "row": [], "time_ns": [], "id": []})
            batch, (time_ns, token_ids) = messages[-1], item
            for row, token_id in enumerate(token_ids):
                if token_id is not None:
                    batch["row"].append(row)
                    batch["time_ns"].append(time_ns)
                    batch["id"].append(token_id)
        if messages:
            self._stream.write("".join(json.dumps(message) + "\n" for message in messages))
            self._stream.flush()
        return closed


class WorkerSink:
    """The sink of one run: everything goes to the outbox, or, in a warm-up, nowhere."""

    def __init__(self, outbox: Outbox, stop: threading.Event, warm_up: bool) -> None:
        self._outbox = outbox
        self._stop = stop
        self._warm_up = warm_up

    @property
    def stopped(self) -> bool:
        return self._stop.is_set()

    def started(self, time_ns: int) -> None:
        if not self._warm_up:
            self._outbox.put({"event": "started", "t0_ns": time_ns})

    def tokens(self, time_ns: int, token_ids: Sequence[int | None]) -> None:
        if not self._warm_up:
            self._outbox.step(time_ns, token_ids)

    def progress(self, done_tokens: int, total_tokens: int) -> None:
        if not self._warm_up:
            self._outbox.put(
                {"event": "progress", "time_ns": time.perf_counter_ns(), "done": done_tokens, "total": total_tokens}
            )


class Worker:
    """Executes one command after another on the main thread; Stop arrives through an event."""

    def __init__(self, outbox: Outbox, stop: threading.Event) -> None:
        self._outbox = outbox
        self._stop = stop
        self._side: Side | None = None

    def execute(self, command: Message) -> None:
        """Runs one command and reports its end; an error of this project becomes an `error` event."""
        try:
            getattr(self, f"_do_{command['cmd']}")(command)
        except EetError as error:
            self._outbox.put({"event": "error", "type": type(error).__name__, "message": str(error)})
        except MemoryError as error:
            message = f"out of memory in {command['cmd']}: {error}; choose a smaller model, context or batch"
            self._outbox.put({"event": "error", "type": "MemoryPlanError", "message": message})
        except Exception as error:
            # A fault of a library or of ours: the traceback goes to stderr (kept by the parent), the words to the page.
            traceback.print_exc()
            message = f"{type(error).__name__} in {command['cmd']}: {error}"
            self._outbox.put({"event": "error", "type": "WorkerError", "message": message})

    def _do_import(self, command: Message) -> None:
        """Builds the side, its libraries imported and nothing loaded: what this process weighs before its model."""
        self._side = build_side(SideOptions(**command["options"]))
        self._outbox.put({"event": "imported", "process_bytes": memory.process_bytes(os.getpid())})

    def _do_load(self, command: Message) -> None:
        side = self._built_side()
        begin_s = time.perf_counter()
        side.compile()
        self._outbox.put({"event": "compiled", "seconds": time.perf_counter() - begin_s})
        begin_s = time.perf_counter()
        config = as_json(side.load())
        seconds = time.perf_counter() - begin_s
        self._outbox.put({"event": "loaded", "config": config, "kinds": dict(side.memory_bytes()), "seconds": seconds})

    def _do_run(self, command: Message) -> None:
        side, request = self._built_side(), request_from_json(command["request"])
        warm_up = bool(command["warm_up"])
        memory.reset_peak()
        finished: Message = {"event": "finished", "warm_up": warm_up, "stopped": False}
        try:
            with self._outbox.running(side):
                clock = side.run(request, WorkerSink(self._outbox, self._stop, warm_up))
            finished |= {"t0_ns": clock.start_ns, "end_ns": clock.end_ns}
        except StopRun:
            finished |= {"t0_ns": None, "end_ns": time.perf_counter_ns(), "stopped": True}
        self._outbox.put(memory_event(side))
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


def memory_event(side: Side) -> Message:
    return {"event": "memory", "time_ns": time.perf_counter_ns(), "kinds": dict(side.memory_bytes())}


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
    worker = Worker(outbox, stop)
    threading.Thread(target=read_commands, args=(commands, stop), name="commands", daemon=True).start()
    while (command := commands.get())["cmd"] != "close":
        worker.execute(command)
    worker.close()
    outbox.close()
