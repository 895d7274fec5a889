"""Where things lie: this project's own files, beside the package in a checkout and inside it in a wheel; and the cache.

Workers and hosts that have only what the engine needs lack pydantic, so the cache's variable is read here and not by
`settings`.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

from eet_demo.errors import CacheError

PACKAGE = Path(__file__).resolve().parent
IMPORT_ROOT = PACKAGE.parent
"""What must be on the path of a process that imports this package."""

_HOME = PACKAGE if (PACKAGE / "kernels").is_dir() else IMPORT_ROOT
KERNELS = _HOME / "kernels"
ASSETS = _HOME / "assets"

CACHE_VARIABLE = "EET_DEMO_CACHE_DIR"


def cache_dir() -> Path:
    """The folder of all that is downloaded, compiled and measured: EET_DEMO_CACHE_DIR, else `~/.cache/eet-demo`.

    Raises:
        CacheError: the variable names no absolute folder (workers run elsewhere), or nobody's home is known.
    """
    named = os.environ.get(CACHE_VARIABLE, "")
    try:
        folder = Path(named).expanduser() if named else Path.home() / ".cache" / "eet-demo"
    except RuntimeError as error:
        raise CacheError(
            f"{named or 'the home folder'} cannot be found ({error}); {CACHE_VARIABLE} names one"
        ) from None
    if not folder.is_absolute():
        raise CacheError(f"{CACHE_VARIABLE} is {named!r}; it must be a whole path, as /big/cache or ~/cache")
    return folder


def kernel_cache(kind: Literal["cpu", "cubins", "sim"]) -> Path:
    """Where compiled kernels of this kind are kept. Raises as `cache_dir`."""
    return cache_dir() / "kernels" / kind
