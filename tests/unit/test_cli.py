"""The command line in a process of its own: output, exit codes, and no traceback for what is foreseen."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from eet_demo.commands.cli import program
from tests.gguf_files import random_model, write_gguf

ROOT = Path(__file__).parents[2]


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "eet_demo", *arguments],
        cwd=ROOT,
        env={**os.environ, "EET_DEMO_HUB_OFFLINE": "1", **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_fetch_of_a_model_that_is_here_prints_its_folder(models_dir: Path) -> None:
    done = run("fetch", "smollm2-135m", EET_DEMO_MODELS_DIR=str(models_dir))
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{models_dir}/smollm2-135m\n", "")


def test_fetch_loads_no_torch(models_dir: Path) -> None:
    code = (
        "import sys\nsys.argv = ['eet_demo', 'fetch', 'smollm2-135m']\nfrom eet_demo.commands.cli import main\n"
        "try:\n    main()\nfinally:\n    print(sorted({'torch', 'transformers', 'gradio', 'cupy'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={**os.environ, "EET_DEMO_MODELS_DIR": str(models_dir)},
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert done.stdout.splitlines()[-1] == "[]"


def test_fetch_converts_a_gguf_file(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "mine.gguf", random_model("gpt2"))
    done = run("fetch", str(path), EET_DEMO_MODELS_DIR=str(tmp_path / "models"))
    assert done.returncode == 0, done.stderr
    assert (Path(done.stdout.strip()) / "model.safetensors").is_file()
    assert "converting" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "environment", "words"),
    [
        (["fetch", "[red]nonsense"], {}, "'[red]nonsense' is no model of the catalogue"),
        (["fetch", "gpt2"], {}, "the Hugging Face Hub is switched off"),
        (["fetch", "nothing.gguf"], {}, "There is no file nothing.gguf"),
        (["fetch", "smollm2-135m"], {"EET_DEMO_PORT": "x"}, "EET_DEMO_PORT"),
        (["doctor"], {"EET_DEMO_THREADS": "0"}, "EET_DEMO_THREADS"),
        (["race", "--batch", "1000000000"], {}, "from 1 to 8 (EET_DEMO_MAX_BATCH)"),
        (["bench", "--new-tokens", "9"], {"EET_DEMO_MAX_NEW_TOKENS": "8"}, "from 1 to 8 (EET_DEMO_MAX_NEW_TOKENS)"),
    ],
)
def test_foreseen_error_is_one_line_and_exit_code_1(
    tmp_path: Path, arguments: list[str], environment: dict[str, str], words: str
) -> None:
    done = run(*arguments, EET_DEMO_MODELS_DIR=str(tmp_path), **environment)
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1, done.stderr
    assert done.stderr.startswith("error: ")
    assert words in done.stderr


def test_doctor_says_yes_on_a_machine_that_can(models_dir: Path) -> None:
    done = run("doctor", EET_DEMO_MODELS_DIR=str(models_dir))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "C++ compiler" in done.stdout


def test_doctor_without_the_model_says_how_to_get_it(tmp_path: Path) -> None:
    done = run("doctor", EET_DEMO_MODELS_DIR=str(tmp_path), COLUMNS="200")
    assert done.returncode == 1
    assert "python -m eet_demo fetch smollm2-135m" in done.stdout


def test_help_lists_every_command_and_each_has_its_own() -> None:
    wide = CliRunner(env={"COLUMNS": "120"})
    listed = re.findall(r"^│ (\w+) {2,}\w", wide.invoke(program(), "--help").stdout.partition("Commands")[2], re.M)
    assert listed == ["fetch", "doctor", "replay", "bench", "race", "quality"]
    for command in listed:
        own = wide.invoke(program(), [command, "--help"])
        assert own.exit_code == 0, own.output
        assert f" {command} [OPTIONS]" in own.stdout


def test_options_of_the_page_before_a_command_are_refused() -> None:
    done = CliRunner().invoke(program(), ["--port", "8000", "doctor"])
    assert done.exit_code == 2
    assert "--port" in done.stderr
