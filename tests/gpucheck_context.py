"""What a part of gpucheck runs in, on a machine without a GPU."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from tools.gpucheck.parts import Context, Settings


def context_for(folder: Path, seconds: float = 300, **changed: Any) -> Context:
    settings = Settings(folder, device="cpu", dtype="float32", repeats=1)
    return Context(replace(settings, **changed), time.perf_counter() + seconds, lambda line: None)
