"""The pins agree with what a Space reads from the README and with what set-up takes."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
import yaml

from tools.install import torch_pin

ROOT = Path(__file__).parents[2]


def pins() -> dict[str, str]:
    text = (ROOT / "requirements.txt").read_text(encoding="utf-8")
    return dict(re.findall(r"^([A-Za-z0-9_-]+)==([^;\s]+)", text, re.MULTILINE))


def front_matter() -> dict[str, object]:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert text.startswith("---\n")
    return yaml.safe_load(text.split("---\n")[1])


def test_space_runs_the_pinned_gradio() -> None:
    space = front_matter()
    assert space["sdk"] == "gradio"
    assert space["sdk_version"] == pins()["gradio"]
    assert space["app_file"] == "app.py"
    assert (ROOT / "app.py").exists()


def test_workflow_runs_every_python_there_is_a_torch_for() -> None:
    workflow = yaml.safe_load((ROOT / ".github/workflows/test.yml").read_text(encoding="utf-8"))
    assert workflow["jobs"]["test"]["strategy"]["matrix"]["python"] == ["3.11", "3.12"]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["requires-python"] == ">=3.11,<3.13"


def test_space_python_has_a_torch_pin() -> None:
    assert front_matter()["python_version"] == "3.12", "ZeroGPU offers 3.12 and 3.10 only"
    assert front_matter()["suggested_hardware"] == "cpu-basic"
    assert len(str(front_matter()["short_description"])) <= 60


def test_space_gets_a_compiler() -> None:
    assert "g++" in (ROOT / "packages.txt").read_text(encoding="utf-8").split()


@pytest.mark.parametrize(("python", "torch"), [((3, 11), "2.13.0"), ((3, 12), "2.11.0")])
def test_torch_pin_follows_python(python: tuple[int, int], torch: str) -> None:
    assert torch_pin((ROOT / "requirements.txt").read_text(encoding="utf-8"), python) == torch


def test_every_requirement_is_pinned() -> None:
    for name in ("requirements.txt", "requirements-dev.txt"):
        for line in (ROOT / name).read_text(encoding="utf-8").splitlines():
            assert (
                not line or line[0] in "#-" or re.fullmatch(r'[\w-]+==[\w.]+(; python_version [<>=]+ "[\d.]+")?', line)
            )
