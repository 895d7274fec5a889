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

KERNELS = Path(__file__).resolve().parents[4] / "kernels"
CUDA_SOURCES = KERNELS / "cuda"
SIM_SOURCES = KERNELS / "sim"

_INCLUDE = re.compile(r'^\s*#\s*include\s+"([^"]+)"')
_ONCE = re.compile(r"^\s*#\s*pragma\s+once\b")


@dataclass(frozen=True)
class Source:
    """A translation unit without quoted includes; `#line` keeps the compiler's messages in the original files."""

    stem: str
    text: str

    @property
    def digest(self) -> str:
        return hashlib.sha256(self.text.encode()).hexdigest()

    def numbered(self, around: int | None = None) -> str:
        """The text with line numbers, or the twenty lines around one."""
        lines = list(enumerate(self.text.splitlines(), 1))
        if around is not None:
            lines = lines[max(0, around - 10) : around + 10]
        return "\n".join(f"{number:5} {line}" for number, line in lines)


def read_source(stem: str, folder: Path = CUDA_SOURCES) -> Source:
    """`<stem>.cu` of `folder` with its headers inlined, each once; headers come from `folder` or `kernels/cuda`.

    Raises:
        KernelCompileError: the file or one of its headers does not exist.
    """
    seen: set[Path] = set()
    lines: list[str] = []
    _append(folder / f"{stem}.cu", folder, seen, lines)
    return Source(stem, "\n".join(lines) + "\n")


def _append(path: Path, folder: Path, seen: set[Path], lines: list[str]) -> None:
    try:
        text = path.read_text()
    except OSError as error:
        raise KernelCompileError(f"kernel source {path} cannot be read: {error.strerror}") from None
    seen.add(path)
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
        if header not in seen:
            _append(header, folder, seen, lines)
        lines.append(f'#line {number + 1} "{path.name}"')


def _find(name: str, user: Path, folder: Path) -> Path:
    for place in (folder, CUDA_SOURCES):
        if (place / name).is_file():
            return place / name
    raise KernelCompileError(f"{user.name} includes {name!r}, which is neither in {folder} nor in {CUDA_SOURCES}")
