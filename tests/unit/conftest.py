"""Fixtures of tests without a page."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from eet_demo.sides import build
from eet_demo.worker.handle import WorkerHandle
from eet_demo.worker.pool import start_worker
from tests.real_workers import options, until
from tests.track import Track


@pytest.fixture
def track(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Track]:
    made = Track(tmp_path)
    monkeypatch.setattr(build, "side_bytes", lambda options: made.machine.plays[options.side].needs)
    yield made
    made.resources.close()


@pytest.fixture
def start() -> Iterator[Callable[[str], WorkerHandle]]:
    handles: list[WorkerHandle] = []

    def make(scenario: str) -> WorkerHandle:
        handle = start_worker(options(scenario))
        handles.append(handle)
        handle.load()
        until(handle, "loaded")
        return handle

    yield make
    for handle in handles:
        handle.kill()
