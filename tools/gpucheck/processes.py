"""Child processes of a check: bounded in time, ended with everything they started, their last words kept."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from eet_demo.errors import EetError

PROJECT_ROOT = Path(__file__).resolve().parents[2]
TAIL_CHARACTERS = 2000


class ProcessFailed(EetError):  # noqa: N818 - what happened
    """A child process ended badly or ran out of time; the message's first line ends with the last that it wrote."""


def run(command: Sequence[str], limit_s: float, check: bool = True) -> str:
    """What the command wrote, stdout and stderr together.

    Raises:
        ProcessFailed: it ran past `limit_s` and was ended, or, with `check`, its exit code is not 0.
    """
    process = subprocess.Popen(
        list(command),
        cwd=PROJECT_ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
    )
    try:
        output, _ = process.communicate(timeout=limit_s)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        output, _ = process.communicate()
        raise ProcessFailed(f"{_name(command)} ran past {limit_s:.0f} s and was ended: {_last_words(output)}") from None
    if check and process.returncode:
        raise ProcessFailed(f"{_name(command)} ended with code {process.returncode}: {_last_words(output)}")
    return output


def run_module(module: str, arguments: Sequence[str], limit_s: float, prefix: Sequence[str] = ()) -> Any:
    """The JSON that `python -m module` writes as the last line of its output, which begins with `{`.

    Args:
        prefix: put before the interpreter: `env NAME=VALUE`, or a tool that runs it.

    Raises:
        ProcessFailed: as `run`, or there is no such line.
    """
    output = run([*prefix, sys.executable, "-m", module, *arguments], limit_s)
    lines = [line for line in output.splitlines() if line.startswith("{")]
    if not lines:
        raise ProcessFailed(f"{module} wrote no result: {_last_words(output)}")
    return json.loads(lines[-1])


def _name(command: Sequence[str]) -> str:
    """The command without the interpreter's path."""
    return " ".join(word for word in command if word != sys.executable)[:200]


def _last_words(output: str) -> str:
    """The last line, which names an error, and below it what came before."""
    lines = output[-TAIL_CHARACTERS:].strip().splitlines() or ["(no output)"]
    return "\n".join([lines[-1], *lines[:-1]])
