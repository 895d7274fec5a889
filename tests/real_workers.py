"""Workers in processes of their own that play a script, and waiting for what they say."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest

from eet_demo.sides.side import SideOptions
from eet_demo.worker.handle import WorkerHandle

PATIENCE_S = 300
"""A busy machine is slow; a test that waits so long has failed."""


def options(scenario: str = "") -> SideOptions:
    name = f"scripted:{scenario}" if scenario else "scripted"
    return SideOptions(name, "", "cpu", "float32", "dense", 1, 2, 64)


def run_command(new_tokens: int, rows: int = 1) -> dict[str, Any]:
    request = {
        "prompt_ids": [[5, 6, 7]] * rows,
        "new_tokens": new_tokens,
        "sampling": {"temperature": 0.0, "top_k": 0, "top_p": 1.0, "seed": 0},
        "stop_token_ids": [],
    }
    return {"cmd": "run", "request": request, "warm_up": False}


def until(handle: WorkerHandle, wanted: str, events: list[dict[str, Any]] | None = None) -> dict[str, Any]:
    """Polls until an event of that kind; every event seen is appended to `events`."""
    deadline_s = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline_s:
        for event in handle.poll():
            if events is not None:
                events.append(event)
            if event["event"] == wanted:
                return event
        time.sleep(0.005)
    pytest.fail(f"no {wanted} within {PATIENCE_S} s: {handle.death()}")


def wait_until(condition: Callable[[], bool], seconds: float = PATIENCE_S) -> bool:
    deadline_s = time.monotonic() + seconds
    while time.monotonic() < deadline_s:
        if condition():
            return True
        time.sleep(0.01)
    return False
