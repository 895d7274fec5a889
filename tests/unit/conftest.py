"""Fixtures of tests without a page."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from eet_demo.sides import build
from tests.track import Track


@pytest.fixture
def track(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Track]:
    made = Track(tmp_path)
    monkeypatch.setattr(build, "side_bytes", lambda options: made.machine.plays[options.side].needs)
    yield made
    made.resources.close()
