"""`tests` and `sanitizer`: the kernels' GPU tests, plain and under compute-sanitizer."""

from __future__ import annotations

import importlib.util
import re
import shutil
import sys
from pathlib import Path

from eet_demo.errors import UnsupportedError
from eet_demo.machine.hardware import usable_cores
from tools.gpucheck import processes
from tools.gpucheck.parts import Context, Record

KERNEL_TESTS = "tests/kernels"
TESTS = (
    KERNEL_TESTS, "tests/parity/test_device_path.py", "tests/parity/test_families.py",
    "tests/parity/test_families_device.py",
)  # fmt: skip
"""All that have tests for a GPU; the others beside them need packages that a GPU host may lack."""

MOST_PROCESSES = 8

TOOLS = ("memcheck", "racecheck")
SUBSET = "gemv or linear_residual or attention_decode or sample"
"""Projections, the cache's readers and the sampler: each kind of index arithmetic and of exchange between threads."""

SANITIZER_TESTS = 24
"""Tests under each tool: a sanitised launch takes a hundred times as long."""

_COUNTS = re.compile(r"(\d+) (passed|failed|skipped|errors?|deselected|xfailed)")
_FAILED = re.compile(r"^(?:FAILED|ERROR) (.+)$", re.MULTILINE)
_SUMMARY = re.compile(r"ERROR SUMMARY: (\d+) error")


def pytest_command(settings_dir: Path, *arguments: str) -> list[str]:
    """pytest with an ini file of its own: the project's asks for plugins that a GPU host may lack.

    Args:
        settings_dir: where the ini file is written.
    """
    settings_dir.mkdir(parents=True, exist_ok=True)
    root = processes.PROJECT_ROOT
    ini = settings_dir / "pytest.ini"
    ini.write_text(
        f"[pytest]\npythonpath = {root}\naddopts = --import-mode=importlib -p no:cacheprovider\n"
        "markers =\n    gpu: needs an NVIDIA GPU\n    slow: takes long\n    timeout: of pytest-timeout\n",
        encoding="utf-8",
    )
    return [sys.executable, "-m", "pytest", "-c", str(ini), f"--rootdir={root}", "-q", *arguments]


def tests(context: Context) -> Record:
    """Counts and failures of the tests that need a GPU. A test that fails is a result, not a failed part."""
    command = pytest_command(
        context.settings.out / "pytest", "-m", "gpu", *TESTS, "--continue-on-collection-errors", "-rfE", "--tb=line",
        *_side_by_side(),
    )  # fmt: skip
    output = processes.run(command, context.left_s(), check=False)
    return parse_pytest(output)


def _side_by_side() -> list[str]:
    """Several processes where pytest-xdist is installed: most of the time goes into compiling kernels."""
    if importlib.util.find_spec("xdist") is None:
        return []
    return ["-n", str(max(1, min(MOST_PROCESSES, usable_cores() // 2)))]


def parse_pytest(output: str) -> Record:
    """`counts` by outcome, the `failures` by name, and the last lines for whoever looks into them.

    Raises:
        ProcessFailed: pytest ran nothing, so there is nothing to report.
    """
    counts = {word.rstrip("s") if word.startswith("error") else word: int(n) for n, word in _COUNTS.findall(output)}
    if not counts.get("passed") and not counts.get("failed"):
        raise processes.ProcessFailed(f"no test ran: {output[-processes.TAIL_CHARACTERS :].strip()}")
    return {"counts": counts, "failures": _FAILED.findall(output), "tail": output.splitlines()[-5:]}


def find_sanitizer(cuda_home: Path | None) -> Path:
    """compute-sanitizer of PATH or of the toolkit.

    Raises:
        UnsupportedError: there is none.
    """
    found = shutil.which("compute-sanitizer")
    if found:
        return Path(found)
    homes = [cuda_home] if cuda_home is not None else []
    for home in (*homes, Path("/usr/local/cuda")):
        for place in (home / "bin", home / "compute-sanitizer", home / "extras" / "compute-sanitizer"):
            if (place / "compute-sanitizer").is_file():
                return place / "compute-sanitizer"
    raise UnsupportedError("compute-sanitizer is neither on PATH nor under --cuda-home nor in /usr/local/cuda")


def sanitizer(context: Context) -> Record:
    """Errors that each tool found, and whether the tests passed under it."""
    tool = find_sanitizer(context.settings.cuda_home)
    names = _first_tests(context)
    results = {}
    for index, name in enumerate(TOOLS):
        command = [str(tool), "--tool", name, "--target-processes", "all", *_sanitized(context, names)]
        output = processes.run(command, context.left_s() / (len(TOOLS) - index), check=False)
        errors = _SUMMARY.findall(output)
        results[name] = parse_pytest(output) | {"errors": sum(map(int, errors)) if errors else None}
    return {"tool": str(tool), "tests": names, "tools": results}


def _first_tests(context: Context) -> list[str]:
    command = pytest_command(context.settings.out / "pytest", "-m", "gpu", "-k", SUBSET, KERNEL_TESTS, "--collect-only")
    output = processes.run(command, context.left_s(), check=False)
    names = [line for line in output.splitlines() if "::" in line]
    if not names:
        raise processes.ProcessFailed(f"no test was collected: {output[-processes.TAIL_CHARACTERS :].strip()}")
    step = max(1, len(names) // SANITIZER_TESTS)
    return names[::step][:SANITIZER_TESTS]


def _sanitized(context: Context, names: list[str]) -> list[str]:
    return pytest_command(context.settings.out / "pytest", *names)
