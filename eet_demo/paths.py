"""Where this project's own files lie: beside the package in a checkout, inside it when it was installed as a wheel."""

from __future__ import annotations

from pathlib import Path

PACKAGE = Path(__file__).resolve().parent
IMPORT_ROOT = PACKAGE.parent
"""What must be on the path of a process that imports this package."""

_HOME = PACKAGE if (PACKAGE / "kernels").is_dir() else IMPORT_ROOT
KERNELS = _HOME / "kernels"
ASSETS = _HOME / "assets"
