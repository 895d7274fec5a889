"""Time as a race reads it and waits in it; a test puts a clock of its own in its place."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Clock:
    """Reads and spends time.

    Args:
        now_ns: nanoseconds on one scale for all processes of this machine.
        sleep: waits for that many seconds.
    """

    now_ns: Callable[[], int] = time.perf_counter_ns
    sleep: Callable[[float], None] = time.sleep
