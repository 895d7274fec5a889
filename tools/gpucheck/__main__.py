"""`python -m tools.gpucheck`."""

from __future__ import annotations

import typer

from eet_demo.commands.cli import report_errors
from tools.gpucheck.command import gpucheck

report_errors(lambda: typer.run(gpucheck))
