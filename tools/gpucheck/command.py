"""The options of `python -m tools.gpucheck`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from eet_demo.errors import RequestError

DEFAULT_MINUTES = 9.0


def gpucheck(
    out: Annotated[Path | None, typer.Option(help="Folder of the report and of everything else it writes.")] = None,
    parts: Annotated[str, typer.Option(help="default, all, or names and patterns (model-*), by commas.")] = "default",
    list_parts: Annotated[bool, typer.Option("--list", help="Say what parts there are.")] = False,
    minutes: Annotated[float, typer.Option(help="Bound of this call; call again for the rest.")] = DEFAULT_MINUTES,
    again: Annotated[bool, typer.Option("--again", help="Repeat finished parts too.")] = False,
    repeats: Annotated[int, typer.Option(help="Timed runs of every bench.", min=1)] = 3,
    dtype: Annotated[str, typer.Option(help="What both sides compute in.")] = "float16",
    device: Annotated[str, typer.Option(help="cuda; another one tries the machinery without a GPU.")] = "cuda",
    real: Annotated[list[str] | None, typer.Option(help="NAME=FOLDER: real weights of a model.")] = None,
    cuda_home: Annotated[Path | None, typer.Option(help="The toolkit with compute-sanitizer.")] = None,
) -> None:
    """Measure and test everything this project does on a GPU, and write one report; may be called again to go on."""
    from tools.gpucheck.catalogue import all_parts
    from tools.gpucheck.parts import Settings, is_finished, run_parts, select
    from tools.gpucheck.write import write_report

    known = all_parts()
    chosen = select(known, parts)
    console = Console(stderr=True, soft_wrap=True)
    if list_parts:
        table = Table("part", "about s", "default", "what")
        for part in known:
            table.add_row(part.name, f"{part.estimate_s:.0f}", "yes" if part.default else "", part.title)
        Console().print(table)
        return
    if out is None:
        raise RequestError("gpucheck needs --out DIR, the folder it writes to (or --list)")
    settings = Settings(out.resolve(), device, dtype, repeats, real_folders(real or []), cuda_home)

    def report() -> None:
        write_report(settings.out, known, [part.name for part in chosen if not is_finished(settings.out, part.name)])

    run_parts(chosen, settings, minutes, lambda line: console.print(line, markup=False), again, report)
    report()
    console.print(f"report: {settings.out / 'report.md'}", markup=False)


def real_folders(pairs: list[str]) -> dict[str, Path]:
    """`NAME=FOLDER` by name. Raises RequestError for what is no such pair, or names no model folder."""
    folders = {}
    for pair in pairs:
        name, equals, folder = pair.partition("=")
        if not equals or not (Path(folder) / "config.json").is_file():
            raise RequestError(f"--real {pair!r} is not NAME=FOLDER with a config.json in the folder")
        folders[name] = Path(folder).resolve()
    return folders
