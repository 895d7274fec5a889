"""The doctor finds what is missing and says what to do; the rest of the machine stays as it is."""

from __future__ import annotations

import importlib.metadata
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from rich.console import Console

from eet_demo import catalog, doctor, hardware
from eet_demo.doctor import Check, can_race, examine, table
from eet_demo.errors import KernelCompileError
from eet_demo.records import Hardware
from eet_demo.settings import Settings


@pytest.fixture
def settings(models_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setenv("EET_DEMO_HUB_OFFLINE", "1")
    monkeypatch.setenv("EET_DEMO_MODELS_DIR", str(models_dir))
    return Settings()


def check_of(settings: Settings, name: str) -> Check:
    return next(check for check in examine(settings) if check.name == name)


def test_machine_that_runs_these_tests_can_race(settings: Settings) -> None:
    checks = examine(settings)
    assert can_race(checks)
    assert check_of(settings, "default model").found == str(settings.models_dir / "smollm2-135m")
    assert all(check.remedy for check in checks if check.state != "yes")


def test_missing_model_is_fetched_by_its_remedy(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EET_DEMO_MODELS_DIR", str(tmp_path / "not" / "yet"))
    check = check_of(Settings(), "default model")
    assert (check.state, check.remedy) == ("no", "Run: python -m eet_demo fetch smollm2-135m")
    assert not can_race(examine(Settings()))


def test_missing_compiler_has_a_remedy(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    check = check_of(settings, "C++ compiler")
    assert (check.state, check.remedy) == ("no", KernelCompileError.remedy)
    assert check_of(settings, "Chromium").state == "unneeded"


def test_missing_package_is_named(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    version = importlib.metadata.version

    def without_gguf(name: str) -> str:
        if name == "gguf":
            raise importlib.metadata.PackageNotFoundError(name)
        return version(name)

    monkeypatch.setattr(importlib.metadata, "version", without_gguf)
    check = check_of(settings, "packages")
    assert (check.state, check.found, check.remedy) == ("no", "missing: gguf", "Run: make setup")


def test_old_python_is_refused(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "version_info", (3, 10, 1))
    assert check_of(settings, "Python").state == "no"


def test_processor_without_wide_vectors_is_slow(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware, "cpu_features", lambda: frozenset({"sse2"}))
    assert check_of(settings, "processor").state == "slow"
    assert can_race(examine(settings)), "slow is not impossible"


def test_little_memory_is_slow(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware, "available_memory_bytes", lambda setting: 2**30)
    check = check_of(settings, "memory")
    assert (check.state, check.found) == ("slow", "1.0 GiB available")


@pytest.mark.parametrize(("here", "state"), [(True, "yes"), (False, "no")])
def test_full_disk_matters_while_the_model_is_not_here(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, here: bool, state: str
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=1000))
    monkeypatch.setattr(catalog, "local_folder", lambda model, models: Path("/x") if here else None)
    assert check_of(settings, "disk").state == state


@pytest.mark.parametrize(
    ("driver", "installed", "state", "words"),
    [
        ("580.159.03", "cupy-cuda13x", "yes", "cupy-cuda13x"),
        ("550.54", "cupy-cuda13x", "unneeded", "pip install cupy-cuda12x"),
        ("580.159.03", None, "unneeded", "pip install cupy-cuda13x"),
        ("470.1", "cupy-cuda12x", "unneeded", "Update the NVIDIA driver"),
        (None, "cupy-cuda13x", "unneeded", "Only of use with an NVIDIA GPU"),
    ],
)
def test_cupy_must_fit_the_driver(
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
    driver: str | None,
    installed: str | None,
    state: str,
    words: str,
) -> None:
    gpu = "NVIDIA L4" if driver else None
    machine = Hardware("cpu", 2, 2**33, gpu, 24 * 2**30 if gpu else None, driver)
    monkeypatch.setattr(hardware, "read_hardware", lambda: machine)
    monkeypatch.setattr(doctor, "_version", lambda name: "14.2.0" if name == installed or "cupy" not in name else None)
    check = check_of(settings, "CuPy")
    assert check.state == state
    assert words in (check.found if state == "yes" else check.remedy)
    assert check_of(settings, "GPU").state == ("yes" if gpu else "unneeded")


def test_table_shows_every_check_and_every_remedy(settings: Settings) -> None:
    checks = [*examine(settings), Check("odd", "test", "no", "a [bold]mark[/]", "do [this]")]
    console = Console(record=True, width=200, file=open("/dev/null", "w"))  # noqa: SIM115 - closed with the console
    console.print(table(checks))
    text = console.export_text()
    assert all(check.name in text and check.found in text for check in checks)
    assert all(check.remedy in text for check in checks if check.state != "yes")
