"""What the pages for readers name is there: paths, names in files, `make` targets, commands and their options."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from eet_demo.commands.cli import program
from tests.unit.pages import ROOT, lacking, make_targets, missing_paths, named_commands

PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")),
    *sorted((ROOT / "docs").glob("*.md")),
    *(ROOT / "kernels" / name for name in ("README.md", "sim/README.md")),
]
COMMANDS = named_commands(page.read_text(encoding="utf-8") for page in PAGES)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_path_that_a_page_names_exists(page: Path) -> None:
    assert missing_paths(page.read_text(encoding="utf-8"), page.parent) == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_make_target_that_a_page_names_exists(page: Path) -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))
    assert make_targets(page.read_text(encoding="utf-8")) <= targets


def test_what_is_not_there_is_found() -> None:
    """The checks above can fail."""
    page = """
    `eet_demo/gone.py`, `eet_demo/paths.py:gone`, `kernels/cuda/gone_STEM.cu`, `gone.md`, `gone/`, `eet_demo/*.gone`,
    [a link](docs/gone.md), and `eet_demo/paths.py`, `eet_demo/records.py:RaceSettings`, `kernels/cuda/STEM.cu`,
    `README.md`, `docs/`, [a link](docs/structure.md)
    """
    assert missing_paths(page, ROOT) == [
        "docs/gone.md",
        "eet_demo/*.gone",
        "eet_demo/gone.py",
        "eet_demo/paths.py:gone",
        "gone.md",
        "gone/",
        "kernels/cuda/gone_STEM.cu",
    ]
    assert make_targets("`make tea`, and make do\n```\nmake coffee  # hot\n```") == {"tea", "coffee"}
    assert named_commands(["`python -m eet_demo race\n--model x`\n```\npython -m tools.tea --hot  for two\n```"]) == {
        ("eet_demo", "race"): {"--model"},
        ("tools.tea",): {"--hot"},
    }
    assert lacking("--modeling  --new-tokens", ["--model", "--new-tokens"]) == ["--model"]


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_command_that_a_page_names_says_what_it_does(command: tuple[str, ...]) -> None:
    help = help_of(*command)
    assert "Usage: " in help
    assert lacking(help, COMMANDS[command]) == []


def help_of(module: str, *subcommands: str) -> str:
    if module == "eet_demo":
        shown = CliRunner().invoke(program(), [*subcommands, "--help"])
        assert shown.exit_code == 0, shown.output
        return shown.output
    command = [sys.executable, "-m", module, *subcommands, "--help"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout
