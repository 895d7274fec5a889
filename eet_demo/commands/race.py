"""`bench` and `race`, which `cli` registers; their options are the fields of RaceSettings."""

from __future__ import annotations

import functools
import importlib.util
import inspect
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from eet_demo.declared import Limits, Setting, settings_of
from eet_demo.files import write_atomically
from eet_demo.machine.gpu import find_gpu
from eet_demo.models.resolve import resolve
from eet_demo.paths import cache_dir
from eet_demo.race.bench import MOST_SIDES, Bench
from eet_demo.race.inputs import check_settings
from eet_demo.race.race import Race, result_of
from eet_demo.race.resources import RaceResources
from eet_demo.records import RaceSettings
from eet_demo.results.metrics import figures
from eet_demo.results.trace import Trace, save_trace
from eet_demo.sides.names import split_sides

DEFAULT_MODEL = "smollm2-135m"

OPTIONS: Mapping[str, Any] = {
    name: Annotated[str if setting.kind is tuple else setting.type, typer.Option(help=setting.help)]
    for name, setting in settings_of(RaceSettings).items()
}
"""Setting -> type and help, as typer reads them."""

JsonPath = Annotated[str | None, typer.Option("--json", help="Where to write the figures; - is stdout.")]
Repeats = Annotated[int, typer.Option(help="Timed runs; bench alternates the order of the sides.", min=1)]
OutPath = Annotated[Path | None, typer.Option(help="Where to write the trace.")]


def register(app: typer.Typer) -> None:
    """Adds `bench` and `race` to the command line."""
    app.command("bench")(_with_settings(bench, leave_out=("schedule",)))
    app.command("race")(_with_settings(race))


def bench(settings: RaceSettings, repeats: Repeats = 3, json_path: JsonPath = None) -> None:
    """Measure the sides, each alone on the machine, and compare."""
    console = Console(stderr=True, soft_wrap=True)
    with _resources(settings) as (resources, folder):
        result = Bench(settings, repeats, folder, resources).run(lambda line: console.print(line, markup=False))
    console.print(_table(result["runs"], result))
    write_json(result, json_path)


def race(settings: RaceSettings, repeats: Repeats = 1, json_path: JsonPath = None, out: OutPath = None) -> None:
    """Run a race as the page does and keep its trace; of several, the one whose last side is of median speed."""
    console = Console(stderr=True, soft_wrap=True)
    with _resources(settings) as (resources, _):
        traces = [_race_once(settings, resources, console) for _ in range(repeats)]
    trace = sorted(traces, key=lambda each: figures(each)["metrics"][-1]["decode_tok_s"] or 0)[len(traces) // 2]
    found = figures(trace)
    runs = [{"side": side["name"], **found["metrics"][i]} for i, side in enumerate(trace["sides"])]
    console.print(_table(runs, found | {"settings": trace["settings"], "notes": trace["notes"]}))
    if out is not None:
        save_trace(trace, out)
        console.print(f"trace: {out}", markup=False)
    write_json(found | {"runs": runs}, json_path)


def _race_once(settings: RaceSettings, resources: RaceResources, console: Console) -> Trace:
    """Runs one race, telling its states on `console`."""

    def tell(update: Mapping[str, Any]) -> None:
        if update["kind"] == "state":
            side = settings.sides[update["side"]]
            console.print(f"{side}: {update['state']}: {update['detail']}", markup=False)

    return result_of(Race(settings, resources).run(), tell)


def _with_settings(command: Callable[..., None], leave_out: tuple[str, ...] = ()) -> Callable[..., None]:
    """`command(settings, ...)` as a function with an option for every field of RaceSettings, for typer to read."""
    own = list(inspect.signature(command, eval_str=True).parameters.values())[1:]
    options = [_parameter(setting) for name, setting in settings_of(RaceSettings).items() if name not in leave_out]

    @functools.wraps(command)
    def run(**given: Any) -> None:
        values = {option.name: given.pop(option.name) for option in options}
        values["sides"] = split_sides(values["sides"])
        command(RaceSettings(**values), **given)

    parameters = [*options, *(parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in own)]
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return run


def _parameter(setting: Setting) -> inspect.Parameter:
    default = DEFAULT_MODEL if setting.name == "model" else setting.default
    if setting.kind is tuple:
        default = ",".join(default)
    return inspect.Parameter(
        setting.name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=OPTIONS[setting.name]
    )


@contextmanager
def _resources(settings: RaceSettings) -> Iterator[tuple[RaceResources, Path]]:
    """The machine within its owner's limits, and the model's folder, fetched first if it must be."""
    owner = owner_limits()
    check_settings(settings, owner["limits"], most_sides=MOST_SIDES)  # before anything is fetched
    folder = resolve(settings.model, owner["models_dir"], owner["hub_enabled"])
    resources = RaceResources.of_this_machine(**owner, catalogue_only=False)
    try:
        yield resources, folder
    finally:
        resources.close()


def owner_limits() -> dict[str, Any]:
    """The owner's settings, as arguments of RaceResources.of_this_machine.

    A host that has only what the engine needs lacks pydantic, which reads them: the command's options are all there is.
    """
    if importlib.util.find_spec("pydantic_settings") is None:
        limits = {"threads": None, "memory_limit_bytes": None, "hub_enabled": False, "limits": Limits.none()}
        return limits | {"models_dir": cache_dir() / "models", "gpu": find_gpu()}
    from eet_demo.settings import load_settings

    settings = load_settings()
    return {
        "models_dir": settings.models_dir,
        "threads": settings.threads,
        "memory_limit_bytes": settings.memory_limit,
        "gpu": find_gpu(settings.cuda_visible_devices, settings.cuda_device_order),
        "hub_enabled": not settings.hub_offline,
        "limits": settings.max,
    }


def _table(runs: list[dict[str, Any]], found: Mapping[str, Any]) -> Table:
    """One row a side, what is undefined a dash; beside a median its interquartile range. Notes stand below."""
    columns = {
        "TTFT ms": "ttft_ms",
        "TPOT ms": "tpot_ms",
        "ITL p50 ms": "itl_ms_p50",
        "ITL p99 ms": "itl_ms_p99",
        "prefill tok/s": "prefill_tok_s",
        "decode tok/s": "decode_tok_s",
    }
    table = Table("side", *columns, "peak MiB", caption=_caption(found))
    for run in runs:
        peak, spread = run["memory"].get("process_peak_bytes"), run.get("iqr", {})
        cells = [_number(run[name], spread.get(name)) for name in columns.values()]
        table.add_row(run["side"], *cells, _number(peak / 2**20 if peak else None))
    return table


def _caption(found: Mapping[str, Any]) -> str:
    parts = []
    if found["speedup"] is not None:
        parts.append("speed-up: " + ", ".join(f"{name} {_number(value)}x" for name, value in found["speedup"].items()))
    for row, entry in enumerate(found["parity"] or []):
        same = entry["first_divergence"] is None
        words = f"{entry['equal_tokens']} equal tokens"
        parts.append(f"row {row}: {words}" + ("" if same else f", margin there {entry['margin_at_divergence']}"))
    roofline = found.get("roofline")
    if roofline is not None:
        use = ", ".join(f"{side} {100 * value:.0f} %" for side, value in roofline["mbu"].items() if value is not None)
        parts.append(f"of {roofline['bandwidth_gb_s']:.1f} GB/s: {use}")
    if found["settings"].get("repeats", 1) > 1:
        parts.append(f"medians of {found['settings']['repeats']} runs, in brackets the width of their middle half")
    return "\n".join(["; ".join(parts), *found["notes"]])


def _number(value: float | None, spread: float | None = None) -> str:
    beside = "" if spread is None else f" ({spread:.2f})"
    return "-" if value is None else f"{value:.2f}{beside}"


def write_json(result: Mapping[str, Any], path: str | None) -> None:
    """One object on stdout for `-`, else in a file whose folder is made if need be."""
    if path is None:
        return
    text = json.dumps(result, ensure_ascii=False, indent=1) + "\n"
    if path == "-":
        typer.echo(text, nl=False)
    else:
        write_atomically(Path(path), text)
