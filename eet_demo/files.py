"""Files that are whole or not there at all, and what is said when a folder takes none."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from eet_demo.errors import CacheError
from eet_demo.paths import CACHE_VARIABLE

PART = ".part"
"""How the name of a file ends that is being written."""


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A path beside `path` to write to: it becomes `path` when the body ends well, and is removed when it does not.

    The folder is made if need be. Raises what the file system does, an OSError.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.{uuid.uuid4().hex[:12]}{PART}")
    try:
        yield part
        os.replace(part, path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def write_atomically(path: Path, content: str | bytes) -> None:
    """Writes a file, text as UTF-8; whoever reads `path` meanwhile sees the old one. Raises OSError."""
    with replacing(path) as part:
        part.write_bytes(content if isinstance(content, bytes) else content.encode())


@contextmanager
def keeping(what: str, folder: Path, variable: str = CACHE_VARIABLE) -> Iterator[None]:
    """Inside, a folder that cannot be written is a CacheError that says so and names the variable to set."""
    try:
        yield
    except OSError as error:
        raise CacheError(
            f"{what} cannot be kept in {folder} ({error.strerror or error}); {variable} names another folder"
        ) from None
