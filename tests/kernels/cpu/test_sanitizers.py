"""The C++ under AddressSanitizer, UBSan and ThreadSanitizer, on small models through the real lowering and plan."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from eet_demo.engine.executors.cpu.compiler import find_compiler

ROOT = Path(__file__).parents[3]
BUILDS = {
    "address": ("libasan.so", ["-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-O1"]),
    "thread": ("libtsan.so", ["-fsanitize=thread", "-O1"]),
}
REPORTS = {"address": "AddressSanitizer: use-after-poison", "thread": "ThreadSanitizer: data race"}


def run(name: str, what: str) -> subprocess.CompletedProcess[str]:
    """`sanitized` in its own process, the sanitizer's library preloaded: Python itself is built without it."""
    library, flags = BUILDS[name]
    path = subprocess.run(
        [find_compiler(), f"-print-file-name={library}"], check=True, capture_output=True, text=True
    ).stdout.strip()
    assert os.path.isabs(path), f"the compiler has no {library}; on Debian it comes with g++"
    environment = os.environ | {
        "LD_PRELOAD": path,
        "ASAN_OPTIONS": "detect_leaks=0",
        "TSAN_OPTIONS": "halt_on_error=1",
    }
    command = [sys.executable, "-m", "tests.kernels.cpu.sanitized", what, *flags]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=240, check=False)


@pytest.mark.parametrize("name", list(BUILDS))
def test_every_op_is_sound(name: str) -> None:
    result = run(name, "all")
    assert result.returncode == 0, result.stderr[-4000:]
    assert "sound" in result.stdout


@pytest.mark.parametrize("name", list(BUILDS))
def test_the_net_has_no_hole(name: str) -> None:
    """A read past a block, and two steps at once, are reported: the test above can fail."""
    result = run(name, "broken")
    assert result.returncode != 0
    assert REPORTS[name] in result.stderr
