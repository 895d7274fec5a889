"""gpucheck on a GPU host as it is: what it needs to start, and which tests it runs there."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tools.gpucheck import processes, suite

BLOCK = """
import importlib.abc, sys, traceback
class Block(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition('.')[0] in ('pydantic', 'pydantic_settings', 'gradio', 'gguf', 'fastjsonschema'):
            if not any('/typer/' in frame.filename for frame in traceback.extract_stack()):
                raise ModuleNotFoundError(f'No module named {name!r}: this test blocks it', name=name)
sys.meta_path.insert(0, Block())
"""


def blocked(code: str) -> str:
    command = [sys.executable, "-c", BLOCK + code]
    done = subprocess.run(command, cwd=processes.PROJECT_ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_module_imports_where_packages_are_absent() -> None:
    walk = (
        "import importlib, pathlib\n"
        "for path in sorted(pathlib.Path('tools/gpucheck').glob('*.py')):\n"
        "    if path.stem != '__main__':\n"
        "        importlib.import_module('tools.gpucheck.' + path.stem)\n"
        "print('cupy' in sys.modules, 'torch' in sys.modules)"
    )
    assert blocked(walk).split() == ["False", "False"], "the check itself holds no GPU; its children do"


@pytest.mark.slow
def test_command_runs_where_packages_are_absent(tmp_path: Path) -> None:
    """The parts that need no GPU, for real: the environment, and one that must fail and say why."""
    arguments = [
        "gpucheck",
        "--out",
        str(tmp_path),
        "--parts",
        "environment,long-context",
        "--device",
        "cpu",
    ]
    blocked(
        f"sys.argv = {[*arguments, '--dtype', 'float64', '--minutes', '5']!r}\n"
        "import runpy\nrunpy.run_module('tools.gpucheck', run_name='__main__')"
    )
    found = json.loads((tmp_path / "gpucheck.json").read_text())
    assert found["format"] == "eet-gpucheck"
    record = found["parts"]["environment"]
    assert record["status"] == "done", record
    assert record["result"]["hardware"]["cores"] >= 1
    assert "torch" in record["result"]["software"]
    assert found["parts"]["long-context"]["status"] == "failed"
    assert "does not support dtype 'float64'" in found["parts"]["long-context"]["error"]
    assert {line["verdict"] for line in found["verdicts"]} == {"not measured"}
    assert "long-context failed" in (tmp_path / "report.md").read_text()


@pytest.mark.slow
def test_gpu_tests_collect_where_packages_are_absent(tmp_path: Path) -> None:
    arguments = suite.pytest_command(tmp_path, "-m", "gpu", *suite.TESTS, "--collect-only")[3:]
    output = blocked(f"import pytest\npytest.main({arguments!r})")
    assert "::" in output
    assert "error" not in output.lower().splitlines()[-1]


def test_every_gpu_test_is_among_those_that_are_run() -> None:
    root = processes.PROJECT_ROOT
    marked = [path for path in (root / "tests").rglob("test_*.py") if "mark" + ".gpu" in path.read_text("utf-8")]
    assert marked
    for path in marked:
        assert any(path.is_relative_to(root / run) for run in suite.TESTS), f"{path} has tests that gpucheck never runs"
