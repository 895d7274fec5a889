"""The parts that race: each is one or two runs of the very `bench` and `race` that the command line has."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from eet_demo.declared import Limits
from eet_demo.engine.shapes import shape as shape_of
from eet_demo.errors import EetError
from eet_demo.paths import cache_dir
from eet_demo.race.bench import Bench
from eet_demo.race.race import Race, result_of
from eet_demo.race.resources import RaceResources
from eet_demo.records import RaceSettings
from eet_demo.results.metrics import figures
from eet_demo.results.trace import Trace, save_trace
from tools.gpucheck.environment import cuda_gpu
from tools.gpucheck.parts import Context, Record

SHORT = {"context": 128, "new_tokens": 128}
"""Decode at short context, the table's default."""

PREFILL_TOKENS = 1024
RAGGED = {"batch": 8, "ragged": True}

SWITCHES = (
    "graph=off", "tokens_per_graph=1", "tokens_per_graph=8", "pdl=off", "split_kv=off", "split_kv=stream",
    "shared_workspace=off", "prefetch=off",
)  # fmt: skip
"""Options of the engine turned from their defaults one at a time; a bench takes them and the plain engine at once."""

Work = dict[str, Any]


def model_name(context: Context, shape: str) -> str:
    """The folder of the model's real weights where they were given, else `shape:NAME`."""
    real = context.settings.real.get(shape)
    return str(real) if real is not None else f"shape:{shape}"


def prefill(name: str) -> Work:
    """1,024 tokens and one written, or one less where the model has no more positions (GPT-2)."""
    return {"context": min(PREFILL_TOKENS, shape_of(name).max_positions - 1), "new_tokens": 1}


def decode(shape: str, sides: Sequence[str] = ("stock", "engine"), **work: Any) -> Callable[[Context], Record]:
    """A part: one bench at short context, or of the `work` given."""

    def run(context: Context) -> Record:
        with machine() as resources:
            return {"decode": bench(context, resources, shape, sides, SHORT | work)}

    return run


def decode_and_prefill(shape: str, with_ragged: bool = False) -> Callable[[Context], Record]:
    """A part: decode at short context, then prefill of 1,024 tokens, and of 8 prompts of different lengths."""

    def run(context: Context) -> Record:
        sides = ("stock", "engine")
        with machine() as resources:
            result = {
                "decode": bench(context, resources, shape, sides, SHORT),
                "prefill": bench(context, resources, shape, sides, prefill(shape)),
            }
            if with_ragged:
                result["ragged_prefill"] = bench(context, resources, shape, sides, prefill(shape) | RAGGED)
            return result

    return run


def contexts(shape: str, short: int, long: int) -> Callable[[Context], Record]:
    """A part: the engine alone at two contexts, so that the ratio of its times a token can be formed."""

    def run(context: Context) -> Record:
        with machine() as resources:
            return {
                str(tokens): bench(context, resources, shape, ("engine",), {"context": tokens, "new_tokens": 64})
                for tokens in (short, long)
            }

    return run


def switches(shape: str, **work: Any) -> Callable[[Context], Record]:
    """A part: the engine with each of SWITCHES, and the time a token of each over that of the plain engine.

    `ragged_prefill=off` shows in the prefill of a ragged batch alone, so it has a bench of its own.
    """

    def run(context: Context) -> Record:
        with machine() as resources:
            sides = ("engine", *(f"engine:{switch}" for switch in SWITCHES))
            found = bench(context, resources, shape, sides, SHORT | work)
            apart = ("engine", "engine:ragged_prefill=off")
            ragged = bench(context, resources, shape, apart, prefill(shape) | RAGGED)
        slower = _over_plain(found, "tpot_ms") | _over_plain(ragged, "ttft_ms")
        return {"decode": found, "ragged_prefill": ragged, "slower_by": slower}

    return run


def _over_plain(found: Record, figure: str) -> dict[str, float | None]:
    plain = found["runs"][0][figure]
    others = {run["side"].partition(":")[2]: run[figure] for run in found["runs"][1:]}
    return {name: value / plain if value and plain else None for name, value in others.items()}


def trace(shape: str, **work: Any) -> Callable[[Context], Record]:
    """A part: one race as the page runs it, its trace kept in OUT/traces."""

    def run(context: Context) -> Record:
        settings = race_settings(context, shape, ("stock", "engine"), SHORT | work)
        path = context.settings.out / "traces" / f"{shape}.json"
        with machine() as resources:
            found = _race(settings, resources, context)
        save_trace(found, path)
        told = figures(found)
        return {"file": f"traces/{path.name}", "speedup": told["speedup"], "notes": found["notes"]}

    return run


def race_settings(context: Context, shape: str, sides: Sequence[str], work: Work) -> RaceSettings:
    asked = context.settings
    base = RaceSettings(model_name(context, shape), device=asked.device, dtype=asked.dtype)  # type: ignore[arg-type]
    return replace(base, sides=tuple(sides), **work)


@contextmanager
def machine() -> Iterator[RaceResources]:
    """This machine as `bench` has it, for one part: the workers end with it."""
    resources = RaceResources.of_this_machine(
        models_dir=cache_dir() / "models",
        gpu=cuda_gpu(),
        hub_enabled=False,
        catalogue_only=False,
        limits=Limits.none(),
    )
    try:
        yield resources
    finally:
        resources.close()


def bench(context: Context, resources: RaceResources, shape: str, sides: Sequence[str], work: Work) -> Record:
    """`bench --json`'s object without the stamp of every token.

    Raises:
        EetError: a side failed, or the time is up.
    """
    settings = race_settings(context, shape, sides, work)
    measured = Bench(settings, context.settings.repeats, Path(settings.model), resources)
    with _stopped_in_time(measured.stop, context):
        result = measured.run(context.tell)
    for run in result["runs"]:
        for sample in run["samples"]:
            del sample["tokens"]
    return result


def _race(settings: RaceSettings, resources: RaceResources, context: Context) -> Trace:
    def refuse(update: Work) -> None:
        if update["kind"] == "error":
            raise EetError(f"{settings.sides[update['side']]}: {update['message']}")

    race = Race(settings, resources)
    with _stopped_in_time(race.stop, context):
        return result_of(race.run(), refuse)


@contextmanager
def _stopped_in_time(stop: Callable[[], None], context: Context) -> Iterator[None]:
    """Calls `stop` when the part's time is up; what had to be stopped is an EetError, whatever came out of it."""
    timer = threading.Timer(context.left_s(), stop)
    timer.start()
    try:
        yield
    except EetError:
        if timer.is_alive():
            raise
    finally:
        in_time = timer.is_alive()
        timer.cancel()
    if not in_time:
        raise EetError("the time was up before it had ended")
