"""Kernels compiled ahead of time: a folder of cubins and its manifest, so that a Space starts without compiling."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock

from eet_demo.engine.executors.cuda.compile.launch import Instance
from eet_demo.engine.executors.cuda.compile.nvrtc import OPTIONS, Compiled
from eet_demo.engine.executors.cuda.compile.resources import Usage, usage_of
from eet_demo.engine.executors.cuda.compile.sources import Source
from eet_demo.files import keeping, write_atomically

MANIFEST = "manifest.json"


@dataclass(frozen=True)
class Cubin:
    """Where an instance lies compiled: `cupy.RawModule(path=...)`, then `get_function(symbol)`."""

    path: Path
    symbol: str
    usage: Usage


class CubinFolder:
    """A folder of cubins. An entry is found only by the hash of the very source and options it was compiled from."""

    def __init__(self, folder: Path) -> None:
        """Raises CacheError for a folder that may not be read."""
        self.folder = folder
        with keeping("compiled kernels", folder):
            self._entries = self._read()

    def find(self, source: Source, instance: Instance, arch: str) -> Cubin | None:
        """The instance for `arch`, or None when it was not built, or built from another version of the source."""
        entry = self._entries.get(_key(source, instance.expression, arch))
        if entry is None or not (self.folder / entry["file"]).is_file():
            return None
        return Cubin(self.folder / entry["file"], entry["symbol"], Usage(**entry["usage"]))

    def add(self, source: Source, instances: Sequence[Instance], compiled: Compiled) -> None:
        """Writes one cubin that holds `instances`, and its entries, beside what other processes wrote meanwhile.

        Raises:
            CacheError: the folder cannot be written.
        """
        name = f"{source.stem}-{compiled.arch}-{hashlib.sha256(compiled.cubin).hexdigest()[:16]}.cubin"
        usages = {usage.expression: asdict(usage) for usage in usage_of(compiled)}
        with keeping("compiled kernels", self.folder):
            write_atomically(self.folder / name, compiled.cubin)
            with self._lock():
                self._entries = self._read()
                for instance in instances:
                    self._entries[_key(source, instance.expression, compiled.arch)] = {
                        "file": name,
                        "symbol": compiled.lowered[instance.expression],
                        "stem": source.stem,
                        "source": source.digest,
                        "usage": usages[instance.expression],
                    }
                self._write()

    def prune(self, sources: Sequence[Source]) -> None:
        """Removes what was compiled from other versions of `sources`, and cubins that no entry names."""
        current = {source.stem: source.digest for source in sources}
        with keeping("compiled kernels", self.folder), self._lock():
            entries = self._read().items()
            self._entries = {k: e for k, e in entries if current.get(e["stem"], e["source"]) == e["source"]}
            self._write()
            kept = {entry["file"] for entry in self._entries.values()}
            for path in self.folder.glob("*.cubin"):
                if path.name not in kept:
                    path.unlink()

    def _lock(self) -> FileLock:
        """Held while the manifest is read and written; freed by the kernel when its holder dies."""
        return FileLock(self.folder / "lock")

    def _read(self) -> dict[str, dict[str, Any]]:
        manifest = self.folder / MANIFEST
        entries: dict[str, dict[str, Any]] = json.loads(manifest.read_text("utf-8")) if manifest.is_file() else {}
        return entries

    def _write(self) -> None:
        write_atomically(self.folder / MANIFEST, json.dumps(self._entries, indent=1, sort_keys=True))


def _key(source: Source, expression: str, arch: str) -> str:
    return hashlib.sha256("\0".join((source.digest, expression, arch, *OPTIONS)).encode()).hexdigest()
