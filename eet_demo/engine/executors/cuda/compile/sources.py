"""Kernel sources as one string each: quoted includes are inlined, so that a cache keyed by the string sees every edit.

CuPy's disk cache hashes the source string and the options, not the headers that `-I` finds: with a plain include an
edited `common.cuh` would load yesterday's binary (DeepGEMM hashes its includes for the same reason).
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

from eet_demo.errors import KernelCompileError
from eet_demo.paths import KERNELS

CUDA_SOURCES = KERNELS / "cuda"
SIM_SOURCES = KERNELS / "sim"

_INCLUDE = re.compile(r'^\s*#\s*include\s+"([^"]+)"')
_PLACE = re.compile(r"([\w./-]+\.cuh?)[(:](\d+)")
_ONCE = re.compile(r"^\s*#\s*pragma\s+once\b")


@dataclass(frozen=True)
class Source:
    """A translation unit without quoted includes; `#line` keeps the compiler's messages in the original files."""

    stem: str
    text: str
    files: dict[str, str]

    @property
    def digest(self) -> str:
        return hashlib.sha256(self.text.encode()).hexdigest()

    def excerpt(self, log: str, around: int = 8) -> str:
        """Numbered lines around the first place in one of our files that a compiler's log names."""
        for match in _PLACE.finditer(log):
            name, line = Path(match[1]).name, int(match[2])
            if name in self.files:
                numbered = list(enumerate(self.files[name].splitlines(), 1))[max(0, line - 1 - around) : line + around]
                return "\n".join(f"{name}:{i:<5}{'>' if i == line else ' '} {text}" for i, text in numbered)
        return ""


def read_source(stem: str, folder: Path = CUDA_SOURCES, defines: tuple[str, ...] = ()) -> Source:
    """`<stem>.cu` of `folder` with its headers inlined, each once; headers come from `folder` or `kernels/cuda`.

    `defines` are macros set before the first line, such as NO_PREFETCH of blocks.cuh.

    Raises:
        KernelCompileError: the file or one of its headers does not exist.
    """
    files: dict[str, str] = {}
    lines = [f"#define {name}" for name in defines]
    _append(folder / f"{stem}.cu", folder, files, lines)
    return Source(stem, "\n".join(lines) + "\n", files)


def _append(path: Path, folder: Path, files: dict[str, str], lines: list[str]) -> None:
    try:
        text = path.read_text()
    except OSError as error:
        raise KernelCompileError(f"kernel source {path} cannot be read: {error.strerror}") from None
    files[path.name] = text
    lines.append(f'#line 1 "{path.name}"')
    for number, line in enumerate(text.splitlines(), 1):
        if _ONCE.match(line):
            lines.append("")
            continue
        match = _INCLUDE.match(line)
        if not match:
            lines.append(line)
            continue
        header = _find(match[1], path, folder)
        if header.name not in files:
            _append(header, folder, files, lines)
        lines.append(f'#line {number + 1} "{path.name}"')


def _find(name: str, user: Path, folder: Path) -> Path:
    for place in (folder, CUDA_SOURCES):
        if (place / name).is_file():
            return place / name
    raise KernelCompileError(f"{user.name} includes {name!r}, which is neither in {folder} nor in {CUDA_SOURCES}")
