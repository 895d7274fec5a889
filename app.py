"""The demo: `python app.py`, also the entry of a Hugging Face Space."""

from __future__ import annotations

from typing import Annotated

import typer

from eet_demo.commands.cli import report_errors
from eet_demo.settings import load_settings


def main(
    host: Annotated[str | None, typer.Option(help="Where to listen; 127.0.0.1 is this machine alone.")] = None,
    port: Annotated[int | None, typer.Option(help="Where to listen.", min=1, max=65535)] = None,
    share: Annotated[bool, typer.Option(help="Also through a public gradio.live address.")] = False,
) -> None:
    """Watch stock Hugging Face generate and an optimised engine write the same text side by side."""
    settings = load_settings()
    from eet_demo.ui import serve  # after the options: --help and a wrong option answer at once

    serve(settings, host or settings.host, port or settings.port, share or settings.share)


if __name__ == "__main__":
    report_errors(lambda: typer.run(main))
