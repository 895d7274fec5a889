"""The parts of a check, run one after the other within a bound of time; what is finished is not done again.

Each part's outcome is a file of its own, written as soon as the part ends: a check that is cut off, or whose time is
up, is taken up again by the same command.
"""

from __future__ import annotations

import fnmatch
import json
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from eet_demo.errors import EetError, RequestError
from eet_demo.files import write_atomically

TRACEBACK_LINES = 12
WRAP_UP_S = 5.0
"""Kept back at the end for the report."""

Record = dict[str, Any]
Tell = Callable[[str], None]


@dataclass(frozen=True)
class Settings:
    """What was asked of a check.

    Args:
        out: folder of everything it writes.
        device: `cuda`; another one tries the machinery where there is no GPU.
        dtype: what engine and stock compute in.
        repeats: timed runs of a bench.
        real: model name -> folder of its real weights; the others have random ones.
        cuda_home: the toolkit's folder, searched for compute-sanitizer when it is not on PATH.
    """

    out: Path
    device: str = "cuda"
    dtype: str = "float16"
    repeats: int = 3
    real: dict[str, Path] = field(default_factory=dict)
    cuda_home: Path | None = None


@dataclass(frozen=True)
class Context:
    """What a part gets: the settings, the moment (perf_counter) its time is up, and who listens."""

    settings: Settings
    deadline_s: float
    tell: Tell

    def left_s(self) -> float:
        """Seconds a part may still take; at least 1, so that a limit made of it is one."""
        return max(1.0, self.deadline_s - WRAP_UP_S - time.perf_counter())


@dataclass(frozen=True)
class Part:
    """One measurement. `run` returns what `json.dumps` takes and raises for a measurement that cannot be had.

    Args:
        estimate_s: about how long it takes on an H100, kernels compiled.
        default: whether it runs without being named.
    """

    name: str
    title: str
    estimate_s: float
    run: Callable[[Context], Record]
    default: bool = True


def select(parts: Sequence[Part], wanted: str) -> list[Part]:
    """The parts that `default`, `all`, or names and patterns (`model-*`) separated by commas stand for, in order.

    Raises:
        RequestError: a name that fits no part.
    """
    if wanted in ("default", "all"):
        return [part for part in parts if part.default or wanted == "all"]
    patterns = [name.strip() for name in wanted.split(",")]
    for pattern in patterns:
        if not any(fnmatch.fnmatchcase(part.name, pattern) for part in parts):
            raise RequestError(f"no part is called {pattern!r}; there are {', '.join(part.name for part in parts)}")
    return [part for part in parts if any(fnmatch.fnmatchcase(part.name, pattern) for pattern in patterns)]


def run_parts(
    parts: Sequence[Part],
    settings: Settings,
    minutes: float,
    tell: Tell,
    again: bool = False,
    after_each: Callable[[], None] = lambda: None,
) -> list[str]:
    """Runs what is not finished yet and returns the names that did not fit in the time.

    Args:
        minutes: bound of the whole call. A part starts only if its estimate fits in what is left; one that takes longer
            ends at the bound.
        again: repeats finished parts too.
        after_each: called whenever a part's record was written.
    """
    deadline_s = time.perf_counter() + 60 * minutes
    context = Context(settings, deadline_s, tell)
    skipped = []
    for part in parts:
        if not again and is_finished(settings.out, part.name):
            tell(f"{part.name}: done before")
            continue
        if part.estimate_s > context.left_s():
            tell(f"{part.name}: skipped, it needs about {part.estimate_s:.0f} s and {context.left_s():.0f} s are left")
            skipped.append(part.name)
            continue
        tell(f"{part.name}: {part.title}")
        record = _run_one(part, context)
        write_json(record_path(settings.out, part.name), record)
        tell(f"{part.name}: {record['status']} after {record['seconds']:.1f} s {record.get('error', '')}".rstrip())
        after_each()
    return skipped


def _run_one(part: Part, context: Context) -> Record:
    begin_s = time.perf_counter()
    record: Record = {"part": part.name, "title": part.title}
    try:
        record |= {"status": "done", "result": part.run(context)}
    except Exception as error:  # whatever a library throws: the other parts go on
        tail = "".join(traceback.format_exception(error)).splitlines()[-TRACEBACK_LINES:]
        name = "" if isinstance(error, EetError) else f"{type(error).__name__}: "
        record |= {"status": "failed", "error": f"{name}{error}", "traceback": tail}
    return record | {"seconds": time.perf_counter() - begin_s}


def record_path(out: Path, name: str) -> Path:
    return out / "parts" / f"{name}.json"


def is_finished(out: Path, name: str) -> bool:
    """Whether an earlier call ended this part well; a failed one is tried again."""
    path = record_path(out, name)
    return path.is_file() and json.loads(path.read_text(encoding="utf-8"))["status"] == "done"


def read_records(out: Path, parts: Sequence[Part]) -> dict[str, Record]:
    """Name -> record of every part that has one, in the parts' order."""
    paths = {part.name: record_path(out, part.name) for part in parts}
    return {name: json.loads(path.read_text(encoding="utf-8")) for name, path in paths.items() if path.is_file()}


def write_json(path: Path, value: Any) -> None:
    """Writes it whole or not at all: a check may be cut off at any time."""
    write_atomically(path, json.dumps(value, ensure_ascii=False, indent=1) + "\n")
