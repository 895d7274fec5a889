"""The command line: `eet-demo`, or `python -m eet_demo`. Commands import what they need when they run."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars
from rich.text import Text

from eet_demo.errors import EetError

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)

_STAGES = {
    "wait": "another process is fetching it",
    "download": "downloading",
    "unpack": "unpacking, checking",
    "convert": "converting once",
}


Host = Annotated[str | None, typer.Option(help="Where to listen; 127.0.0.1 is this machine alone.")]
Port = Annotated[int | None, typer.Option(help="Where to listen.", min=1, max=65535)]


@app.callback(invoke_without_command=True)
def page(
    context: typer.Context,
    host: Host = None,
    port: Port = None,
    share: Annotated[bool, typer.Option(help="Also through a public gradio.live address.")] = False,
) -> None:
    """Watch stock Hugging Face generate and an optimised engine write the same text side by side.

    Without a command: the page.
    """
    if context.invoked_subcommand is not None:
        if host or port or share:
            raise typer.BadParameter("--host, --port and --share are the page's: give them without a command.")
        return
    from eet_demo.settings import load_settings

    settings = load_settings()
    from eet_demo.ui import serve  # after the settings: a wrong one is said at once

    serve(settings, host or settings.host, port or settings.port, share or settings.share)


@app.command()
def fetch(
    model: Annotated[
        str, typer.Argument(help="A catalogue id (smollm2-135m), a .gguf file, or a Hub id (owner/name[@revision]).")
    ],
) -> None:
    """Download and verify a model, once; prints its folder."""
    from eet_demo.models.resolve import resolve
    from eet_demo.settings import load_settings

    settings = load_settings()
    with _progress_bars() as report:
        folder = resolve(model, settings.models_dir, not settings.hub_offline, report)
    print(folder)


@app.command()
def doctor() -> None:
    """Say what this machine can run, and why not; exit code 1 when not even the default race."""
    from eet_demo.machine.doctor import can_race, examine, table
    from eet_demo.settings import load_settings

    checks = examine(load_settings())
    Console().print(table(checks))
    if not can_race(checks):
        raise typer.Exit(1)


@contextmanager
def _progress_bars() -> Iterator[Callable[[str, int, int], None]]:
    """One bar a stage, on stderr; nothing at all when there was nothing to do."""
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    bars = Bars(*columns, console=Console(stderr=True))
    tasks = {stage: bars.add_task(words, total=None, visible=False) for stage, words in _STAGES.items()}

    def report(stage: str, done: int, total: int) -> None:
        bars.start()
        if stage == "wait":
            bars.update(tasks[stage], description=f"process {done} is fetching it" if done else None, visible=True)
        else:
            bars.update(tasks[stage], completed=done, total=total or None, visible=True)

    try:
        yield report
    finally:
        if bars.live.is_started:
            bars.stop()


@app.command()
def replay(
    trace: Annotated[Path, typer.Argument(help="A trace: of race --out, or downloaded from the page.")],
    host: Host = None,
    port: Port = None,
) -> None:
    """Serve a page that plays a recorded race."""
    from eet_demo.settings import load_settings
    from eet_demo.ui import serve_replay

    settings = load_settings()
    serve_replay(trace, host or settings.host, port or settings.port)


@functools.cache
def program() -> typer.Typer:
    """Every command; those of other files too, which import more than most runs need."""
    from eet_demo.commands.quality import register as register_quality
    from eet_demo.commands.race import register

    register(app)
    register_quality(app)
    return app


def main() -> None:
    """Runs a command, or the page."""
    report_errors(program())


def report_errors(program: Callable[[], object]) -> None:
    """Runs `program`. An error of this project is one line and exit code 1, never a traceback."""
    try:
        program()
    except EetError as error:
        Console(stderr=True, soft_wrap=True).print(Text.assemble(("error: ", "bold red"), str(error)))
        raise SystemExit(1) from None
