"""`quality` on the command line, which `eet_demo.commands.cli` registers."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from eet_demo.commands.race import DEFAULT_MODEL, owner_limits, write_json
from eet_demo.machine.hardware import usable_cores
from eet_demo.models.resolve import resolve
from eet_demo.records import Device
from eet_demo.results.quality import TOKENS, WINDOW, lines_of, measure_quality
from eet_demo.sides.engine import engine_options
from eet_demo.sides.side import SideOptions


def register(app: typer.Typer) -> None:
    """Adds `quality` to the command line."""
    app.command("quality")(quality)


def quality(
    model: Annotated[str, typer.Option(help="A catalogue id, a folder, a .gguf file or a Hub id.")] = DEFAULT_MODEL,
    device: Annotated[Device, typer.Option(help="Where both engines run.")] = "cpu",
    dtype: Annotated[str, typer.Option(help="What the tested engine computes in.")] = "float32",
    weights: Annotated[str, typer.Option(help="How it stores its weights.")] = "dense",
    side: Annotated[str, typer.Option(help="engine, or engine:OPTION=VALUE as in a race.")] = "engine",
    tokens: Annotated[int, typer.Option(help="Predicted tokens.", min=1)] = TOKENS,
    window: Annotated[int, typer.Option(help="Tokens of a window; windows do not overlap.", min=2)] = WINDOW,
    threads: Annotated[int | None, typer.Option(help="CPU threads; all that may be used by default.", min=1)] = None,
    json_path: Annotated[str | None, typer.Option("--json", help="Where to write the record; - is stdout.")] = None,
) -> None:
    """Perplexity of a precision on this repository's texts, and its distance from float32 dense."""
    console = Console(stderr=True, soft_wrap=True)
    limits = owner_limits()
    folder = resolve(model, limits["models_dir"], limits["hub_enabled"])
    cores = usable_cores(limits["threads"])
    asked = SideOptions(side, str(folder), device, dtype, weights, min(cores, threads or cores), 1, window)
    with Progress(console=console) as bar:
        task = bar.add_task("reading", total=None)
        record = measure_quality(
            folder, device, dtype, weights, engine_options(asked), tokens, window,
            lambda done, total: bar.update(task, completed=done, total=total), limits["gpu"],
        )  # fmt: skip
    table = Table(f"{model}, {device}, {dtype}, {weights}", "")
    for what, value in lines_of(record):
        table.add_row(what, value)
    console.print(table)
    write_json(record, json_path)
