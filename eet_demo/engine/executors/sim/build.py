"""Builds kernel instances for the simulator with g++, one binary each, cached by sources, flags and compiler."""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Literal

from eet_demo.engine.executors.cuda.compile.launch import Instance
from eet_demo.engine.executors.cuda.compile.sources import CUDA_SOURCES, SIM_SOURCES, read_source
from eet_demo.errors import KernelCompileError
from eet_demo.files import keeping, replacing
from eet_demo.paths import kernel_cache

SimMode = Literal["plain", "address", "race"]

COMMON_FLAGS = (
    "-std=c++17", "-g1", "-mavx2", "-mfma", "-mf16c", "-ffp-contract=off", "-fno-math-errno",
    "-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas", "-Wno-unused",
)  # fmt: skip
"""Without contraction, so that a simulated kernel is the same arithmetic in every mode. Unused names are allowed, or
many a fault planted by the mutation check would not compile."""

MODE_FLAGS: dict[SimMode, tuple[str, ...]] = {
    "plain": ("-O2", "-fPIC"),
    "address": ("-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-DSIM_ISOLATED", "-DSIM_ASAN"),
    "race": ("-O1", "-fsanitize=thread", "-DSIM_ISOLATED", "-DSIM_TSAN"),
}
RUNTIME = ("launch.cpp", "scheduler.cpp", "blocks.cpp", "collectives.cpp", "report.cpp")


class SimBuilder:
    """One mode's binaries: a shared library an instance in the plain mode, an executable in the sanitized ones."""

    def __init__(
        self, mode: SimMode, folder: Path = CUDA_SOURCES, build: Path | None = None, defines: tuple[str, ...] = ()
    ) -> None:
        """Keeps binaries in `build`, None for the usual cache.

        Raises:
            KernelCompileError: the simulator cannot run here: no g++, or not an x86-64 processor.
        """
        self.mode = mode
        self._folder = folder
        self._build = build or kernel_cache("sim")
        self._compiler = _compiler()
        self._defines = defines
        self._flags = (*COMMON_FLAGS, *MODE_FLAGS[mode])
        self._folders = (folder, CUDA_SOURCES, SIM_SOURCES)
        names = (folder.name for folder in self._folders)
        self._base = _digest(_version(self._compiler), " ".join(self._flags), *names, *_sim_texts())

    def runtime(self) -> tuple[Path, ...]:
        """The scheduler: a shared library in the plain mode, objects (compiled without sanitizers) otherwise."""
        if self.mode == "plain":
            sources = [str(SIM_SOURCES / name) for name in RUNTIME]
            return (self._make(f"runtime-{self._base[:16]}.so", ["-shared", "-Wl,-Bsymbolic-functions", *sources]),)
        mode = [flag for flag in self._flags if not flag.startswith(("-fsanitize", "-fno-sanitize"))]
        return tuple(
            self._make(f"{name}-{self._base[:16]}.o", ["-c", str(SIM_SOURCES / name)], mode)
            for name in (*RUNTIME, "isolated.cpp")
        )

    def build(self, instance: Instance) -> Path:
        """The binary of one instance, compiled if it is not there."""
        source = read_source(instance.stem, self._folder, self._defines)
        digest = _digest(self._base, source.digest, instance.expression)[:24]
        name = f"{instance.kernel or instance.stem}-{self.mode}-{digest}"
        macros = "".join(f"#define {define}\n" for define in self._defines)
        unit = f'{macros}#include "{instance.stem}.cu"\n#include "entry.h"\nSIM_ENTRY({instance.expression})\n'
        if self.mode == "plain":
            return self._make(f"{name}.so", ["-shared", "-x", "c++", "-"], unit=unit, what=instance.expression)
        if not (self._build / name).exists():
            objects = [str(path) for path in self.runtime()]
            self._make(name, ["-x", "c++", "-", "-x", "none", *objects], unit=unit, what=instance.expression)
        return self._build / name

    def build_all(self, instances: list[Instance]) -> None:
        self.runtime()
        with ThreadPoolExecutor(max_workers=max(1, len(os.sched_getaffinity(0)))) as pool:
            list(pool.map(self.build, instances))

    def _make(
        self, name: str, arguments: list[str], flags: list[str] | None = None, unit: str = "", what: str = ""
    ) -> Path:
        target = self._build / name
        with keeping("the simulator's kernels", self._build):
            if target.exists():
                return target
            with replacing(target) as output:
                command = [self._compiler, *(flags or self._flags), *self._search(), *arguments, "-o", str(output)]
                done = subprocess.run(command, input=unit, capture_output=True, text=True, check=False)
                if done.returncode:
                    repeat = " ".join(command) + (f" <<'EOF'\n{unit}EOF" if unit else "")
                    raise KernelCompileError(
                        f"g++ refused {what or name} for the simulator:\n{done.stderr}\nrepeat it with: {repeat}"
                    )
        return target

    def _search(self) -> list[str]:
        """Where sources are found, and what reports call those folders: their last part, for two checkouts share a
        cache and neither is the other's place."""
        places = [f"-ffile-prefix-map={Path.cwd()}=."]
        places += [f"-ffile-prefix-map={folder}={folder.name}" for folder in self._folders]
        return [*places, *(f"-I{folder}" for folder in self._folders)]


@cache
def _compiler() -> str:
    path = shutil.which("g++")
    if not path:
        raise KernelCompileError("the simulator needs g++ 12 or later; on Debian: apt-get install g++")
    if platform.machine() != "x86_64":
        raise KernelCompileError(
            f"the simulator switches fibers on x86-64 only; this processor is {platform.machine()}"
        )
    return path


@cache
def _version(compiler: str) -> str:
    return subprocess.run([compiler, "--version"], capture_output=True, text=True, check=True).stdout


def _sim_texts() -> list[str]:
    return [path.name + path.read_text() for path in sorted(SIM_SOURCES.glob("*.*")) if path.suffix in (".h", ".cpp")]


def _digest(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()
