"""The command line: `python -m eet_demo <command>`."""

from __future__ import annotations

import typer
from rich.console import Console
from rich.progress import Progress as Bars
from rich.progress import TaskID

from eet_demo.errors import EetError

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)


@app.callback()
def commands() -> None:
    """Stock Hugging Face against an optimised engine, side by side."""


@app.command()
def fetch(model: str) -> None:
    """Downloads a model, verifies it and converts it once."""
    from eet_demo.fetch import fetch as fetch_model
    from eet_demo.settings import Settings

    console = Console(stderr=True)
    with Bars(console=console) as bars:
        tasks: dict[str, TaskID] = {}

        def progress(stage: str, done: int, total: int) -> None:
            if stage not in tasks:
                tasks[stage] = bars.add_task(stage, total=total or None)
            bars.update(tasks[stage], completed=done)

        folder = fetch_model(model, Settings().models_dir, progress)
    print(folder)


def main() -> None:
    """Runs a command; an error of this project is one line and exit code 1."""
    try:
        app()
    except EetError as error:
        Console(stderr=True, highlight=False).print(f"[bold red]error:[/] {error}")
        raise SystemExit(1) from None
