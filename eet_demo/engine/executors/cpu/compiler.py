"""Compiles `kernels/cpu/` into a shared library for this very CPU, once; cached by a hash of all that goes into it."""

from __future__ import annotations

import errno
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from eet_demo.errors import CacheError, KernelCompileError
from eet_demo.files import keeping, replacing
from eet_demo.machine.hardware import cpu_features, cpu_name
from eet_demo.paths import CACHE_VARIABLE, KERNELS, kernel_cache

SOURCES = KERNELS / "cpu"

FLAGS = (
    *("-O3", "-std=c++17", "-fPIC", "-shared", "-pthread", "-fno-math-errno", "-ffp-contract=fast"),
    "-fvisibility=hidden",
    "-Wno-psabi",  # no vector crosses the interface
)
"""No -ffast-math: NaN must stay NaN and sums keep their order."""

COMPILERS = ("c++", "g++", "clang++")
TIMEOUT_S = 300
SHOWN_LINES = 12


def library(cache: Path | None = None, extra_flags: Sequence[str] = ()) -> Path:
    """Path of the compiled library; compiles it if no library of these sources, flags, compiler and CPU is cached.

    Args:
        cache: None takes `paths.kernel_cache`.

    Raises:
        KernelCompileError: no compiler, or its message (shortened) and the command that repeats it.
        CacheError: the folder cannot be written, or there is no room.
    """
    compiler = find_compiler()
    flags = [*FLAGS, "-mcpu=native" if platform.machine() == "aarch64" else "-march=native", *extra_flags]
    target = (cache or kernel_cache("cpu")) / f"eet-{_key(compiler, flags)}.so"
    with keeping("the compiled engine", target.parent):
        if not target.exists():
            compile_library(compiler, flags, SOURCES / "engine.cpp", target)
    return target


def find_compiler() -> str:
    """Absolute path of the machine's C++ compiler."""
    for name in COMPILERS:
        if path := shutil.which(name):
            return path
    raise KernelCompileError(
        f"the CPU engine is compiled at first use and none of {', '.join(COMPILERS)} was found; "
        "install one, on Debian or Ubuntu with: apt-get install -y g++"
    )


def compile_library(compiler: str, flags: Sequence[str], source: Path, target: Path) -> None:
    """Compiles beside `target` and renames, so that a half-written library is never loaded. Raises OSError."""
    with replacing(target) as built:
        _run([compiler, *flags, str(source), "-o"], built)


def _run(command: list[str], built: Path) -> None:
    try:
        result = subprocess.run([*command, str(built)], capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise KernelCompileError(f"{command[0]} could not run: {error}; {_repeat(command)}") from None
    if result.returncode and os.strerror(errno.ENOSPC) in result.stderr:
        raise CacheError(
            f"{command[0]} had no room to write ({_shortened(result.stderr)}); {CACHE_VARIABLE} names another folder "
            "than its target's, TMPDIR one for what it writes meanwhile"
        )
    if result.returncode:
        raise KernelCompileError(f"{command[0]} failed:\n{_shortened(result.stderr)}\n{_repeat(command)}")


def _repeat(command: list[str]) -> str:
    return f"repeat it with: {shlex.join([*command, os.devnull])}"


def _key(compiler: str, flags: Sequence[str]) -> str:
    """Hash of every source and header, the flags, the compiler's version and the CPU."""
    digest = hashlib.sha256()
    for path in sorted(SOURCES.iterdir()):
        if path.suffix in (".h", ".cpp"):
            digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    version = subprocess.run([compiler, "--version"], capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    for text in (*flags, compiler, version.stdout, platform.machine(), cpu_name(), *sorted(cpu_features())):
        digest.update(text.encode() + b"\0")
    return digest.hexdigest()[:20]


def _shortened(message: str) -> str:
    """The compiler's errors without the include chains and carets around them."""
    lines = [line for line in message.splitlines() if "error" in line] or message.splitlines()
    return "\n".join(lines[:SHOWN_LINES])
