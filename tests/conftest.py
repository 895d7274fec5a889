"""Fixtures that more than one folder of tests uses."""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import psutil
import pytest

from eet_demo.machine import hardware
from eet_demo.models import catalog
from eet_demo.race.resources import RaceResources
from eet_demo.records import Hardware
from tests.real_races import Started

# Tests run two at a time on two cores: a second OpenMP thread would wait a scheduler slice at every parallel region.
os.environ.setdefault("OMP_NUM_THREADS", "1")

DEFAULT_MODEL = "smollm2-135m"


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Tests marked `gpu` run where there is one."""
    if item.get_closest_marker("gpu") is not None and not _has_gpu():
        pytest.skip("no GPU here")


@cache
def _has_gpu() -> bool:
    from eet_demo.engine.executors.cuda.compile.cupy_launcher import import_cupy
    from eet_demo.errors import UnsupportedError

    try:
        import_cupy()
    except UnsupportedError:
        return False
    return True


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Any:
    """In CI a skip is a failure, but for tests that need a GPU."""
    report = yield
    needs_gpu = item.get_closest_marker("gpu") is not None
    if report.skipped and os.environ.get("CI") and not needs_gpu and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"skipped where CI allows no skips: {report.longrepr}"
    return report


@pytest.fixture(scope="session")
def models_dir() -> Path:
    """Where this machine keeps its models, the default one among them; `make setup` puts it there."""
    from eet_demo.settings import Settings  # pydantic, which a GPU host that runs the kernels' tests need not have

    folder = Settings().models_dir
    if catalog.local_folder(DEFAULT_MODEL, folder) is None:
        pytest.fail(f"{folder}/{DEFAULT_MODEL} is missing; run: python -m eet_demo fetch {DEFAULT_MODEL}")
    return folder


@pytest.fixture(scope="session")
def model_dir(models_dir: Path) -> Path:
    """The Hugging Face folder of the default model."""
    folder = catalog.local_folder(DEFAULT_MODEL, models_dir)
    assert folder is not None
    return folder


@pytest.fixture
def started() -> Started:
    """Tells which child processes this test has started and not ended: a browser, or a page's workers, may be older."""
    before = {child.pid for child in psutil.Process().children()}
    return lambda: [child for child in psutil.Process().children() if child.pid not in before]


@pytest.fixture
def race_resources(models_dir: Path) -> Iterator[RaceResources]:
    """Resources of a race between scripted sides, or of models given as folders; workers end with the test."""
    resources = RaceResources(
        models_dir=models_dir,
        hardware=Hardware("test machine", 2, 2**33),
        threads=hardware.usable_cores(),
        available_bytes=hardware.available_memory_bytes,
        catalogue_only=False,
        allow_scripted=True,
    )
    yield resources
    resources.close()
