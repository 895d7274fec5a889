"""Runs a module in a process of its own with a sanitizer's library preloaded: Python itself is built without it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from eet_demo.engine.executors.cpu.compiler import find_compiler

ROOT = Path(__file__).parents[2]
FLAGS = {
    "address": ("-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-O1"),
    "thread": ("-fsanitize=thread", "-O1", "-DEET_STRESS"),
}
"""Not below -O1: there g++ hides from ThreadSanitizer the store of a struct that a call returns."""

LIBRARIES = {"address": "libasan.so", "thread": "libtsan.so"}
TIMEOUT_S = 240


def run(sanitizer: str, module: str, arguments: Sequence[str], root: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """`module` of the tree `root`, with `arguments` and the sanitizer's compiler flags behind them."""
    library = LIBRARIES[sanitizer]
    path = subprocess.run(
        [find_compiler(), f"-print-file-name={library}"], check=True, capture_output=True, text=True
    ).stdout.strip()
    assert os.path.isabs(path), f"the compiler has no {library}; on Debian it comes with g++"
    environment = os.environ | {
        "LD_PRELOAD": path,
        "ASAN_OPTIONS": "detect_leaks=0",
        "TSAN_OPTIONS": "halt_on_error=1",
        "OPENBLAS_NUM_THREADS": "1",  # NumPy's own threads do not survive a fork
    }
    command = [sys.executable, "-m", module, *arguments, *FLAGS[sanitizer]]
    return subprocess.run(
        command, cwd=root, env=environment, capture_output=True, text=True, timeout=TIMEOUT_S, check=False
    )
