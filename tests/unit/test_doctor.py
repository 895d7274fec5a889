"""The doctor finds what is missing and says what to do; the rest of the machine stays as it is."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import importlib.util
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from rich.console import Console

from eet_demo.errors import KernelCompileError
from eet_demo.machine import doctor, hardware
from eet_demo.machine.doctor import Check, CheckId, can_race, examine, table
from eet_demo.models import catalog
from eet_demo.settings import Settings
from tests.fake_nvml import GIB, Card, FakeNvml

L4 = Card("NVIDIA L4", "GPU-l4", (24 * GIB, GIB), (8, 9))


@pytest.fixture
def settings(models_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setenv("EET_DEMO_HUB_OFFLINE", "1")
    monkeypatch.setenv("EET_DEMO_MODELS_DIR", str(models_dir))
    return Settings()


def check_of(settings: Settings, wanted: CheckId) -> Check:
    return next(check for check in examine(settings) if check.id is wanted)


def test_machine_that_runs_these_tests_can_race(settings: Settings) -> None:
    checks = examine(settings)
    assert can_race(checks)
    assert check_of(settings, CheckId.MODEL).found == str(settings.models_dir / "smollm2-135m")
    assert all(check.remedy for check in checks if check.state != "yes")


def test_missing_model_is_fetched_by_its_remedy(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EET_DEMO_MODELS_DIR", str(tmp_path / "not" / "yet"))
    check = check_of(Settings(), CheckId.MODEL)
    assert (check.state, check.remedy) == ("no", "Run: python -m eet_demo fetch smollm2-135m")
    assert not can_race(examine(Settings()))


def test_missing_compiler_has_a_remedy(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    check = check_of(settings, CheckId.COMPILER)
    assert (check.state, check.remedy) == ("no", KernelCompileError.remedy)
    assert check_of(settings, CheckId.BROWSER).state == "unneeded"


def test_missing_package_is_named(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    version = importlib.metadata.version

    def without_gguf(name: str) -> str:
        if name == "gguf":
            raise importlib.metadata.PackageNotFoundError(name)
        return version(name)

    monkeypatch.setattr(importlib.metadata, "version", without_gguf)
    check = check_of(settings, CheckId.PACKAGES)
    assert (check.state, check.found, check.remedy) == ("no", "missing: gguf", "Run: make setup")


def test_old_python_is_refused(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "version_info", (3, 10, 1))
    assert check_of(settings, CheckId.PYTHON).state == "no"


def test_processor_without_wide_vectors_is_slow(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware, "cpu_features", lambda: frozenset({"sse2"}))
    assert check_of(settings, CheckId.PROCESSOR).state == "slow"
    assert can_race(examine(settings)), "slow is not impossible"


def test_little_memory_is_slow(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware, "available_memory_bytes", lambda setting: 2**30)
    check = check_of(settings, CheckId.MEMORY)
    assert (check.state, check.found) == ("slow", "1.0 GiB available")


@pytest.mark.parametrize(("here", "state"), [(True, "yes"), (False, "no")])
def test_full_disk_matters_while_the_model_is_not_here(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, here: bool, state: str
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=1000))
    monkeypatch.setattr(catalog, "local_folder", lambda model, models: Path("/x") if here else None)
    assert check_of(settings, CheckId.DISK).state == state


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
    nvml = FakeNvml(*[L4] if driver else [])
    monkeypatch.setattr(nvml, "nvmlSystemGetDriverVersion", lambda: driver)
    nvml.install(monkeypatch)
    monkeypatch.setattr(doctor, "_version", lambda name: "14.2.0" if name == installed or "cupy" not in name else None)
    check = check_of(settings, CheckId.CUPY)
    assert check.state == state
    assert words in (check.found if state == "yes" else check.remedy)
    assert check_of(settings, CheckId.GPU).state == ("yes" if driver else "unneeded")


def with_gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, built_for: str | None = "13.0") -> None:
    """A machine whose GPU, CuPy and torch can all be used, torch's version file in `tmp_path`."""
    FakeNvml(L4).install(monkeypatch)
    monkeypatch.setattr(doctor, "_version", lambda name: "14.2.0")
    built = f"'{built_for}'" if built_for else "None"
    (tmp_path / "version.py").write_text(f"__version__ = '2.13.0'\ncuda: Optional[str] = {built}\n", encoding="utf-8")
    spec = SimpleNamespace(submodule_search_locations=[str(tmp_path)])
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec)


def test_devices_are_listed(settings: Settings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with_gpu(monkeypatch, tmp_path)
    for device in (CheckId.DEVICE_CPU, CheckId.DEVICE_CUDA, CheckId.DEVICE_SIM):
        assert check_of(settings, device).state == "yes"
    assert check_of(settings, CheckId.TORCH).found == "torch 14.2.0, CUDA 13.0"


def test_device_without_a_compiler_has_its_remedy(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    for device in (CheckId.DEVICE_CPU, CheckId.DEVICE_SIM):
        check = check_of(settings, device)
        assert (check.state, check.found, check.remedy) == (
            "unneeded",
            "C++ compiler: none",
            KernelCompileError.remedy,
        )


def test_gpu_that_cannot_be_used_says_why(settings: Settings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with_gpu(monkeypatch, tmp_path, built_for=None)
    assert "for CPU alone" in check_of(settings, CheckId.DEVICE_CUDA).found
    assert "pip install" in check_of(settings, CheckId.DEVICE_CUDA).remedy
    with_gpu(monkeypatch, tmp_path)
    monkeypatch.setattr(doctor, "_version", lambda name: None if "cupy" in name else "2.13.0")
    assert check_of(settings, CheckId.DEVICE_CUDA).remedy == "Driver 580.159.03 wants: pip install cupy-cuda13x"
    with_gpu(monkeypatch, tmp_path)
    FakeNvml(dataclasses.replace(L4, capability=(7, 0))).install(monkeypatch)
    assert "sm_70 is too old" in check_of(settings, CheckId.DEVICE_CUDA).found
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert check_of(Settings(), CheckId.GPU).found == "NVIDIA L4, 24 GiB, driver 580.159.03, hidden"
    assert check_of(Settings(), CheckId.DEVICE_CUDA).remedy == "Unset CUDA_VISIBLE_DEVICES."


def test_gpu_is_the_one_that_cuda_uses(settings: Settings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with_gpu(monkeypatch, tmp_path)
    FakeNvml(L4, Card("NVIDIA GeForce GTX 980", "GPU-old", capability=(5, 2))).install(monkeypatch)
    assert check_of(settings, CheckId.GPU).state == "yes"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    assert "GTX 980, 80 GiB, driver 580.159.03, sm_52 is too old" in check_of(Settings(), CheckId.GPU).found


def test_gpu_that_tells_nothing_is_no_obstacle(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A virtual or divided one: the executor says the rest."""
    with_gpu(monkeypatch, tmp_path)
    asked = [name for name in vars(FakeNvml) if name.startswith(("nvmlDeviceGet", "nvmlSystem"))]
    reach = ("nvmlDeviceGetCount", "nvmlDeviceGetHandleByIndex")
    FakeNvml(L4, fails=[name for name in asked if name not in reach]).install(monkeypatch)
    assert (check_of(settings, CheckId.GPU).state, check_of(settings, CheckId.GPU).found) == ("yes", "an NVIDIA GPU")
    assert check_of(settings, CheckId.DEVICE_CUDA).state == "yes"


def test_oldest_gpu_is_the_executors() -> None:
    from eet_demo.engine.executors.cuda.runtime.devices import OLDEST_CAPABILITY

    assert doctor.OLDEST_CAPABILITY == OLDEST_CAPABILITY


def test_every_check_is_made_once(settings: Settings) -> None:
    assert sorted(check.id.name for check in examine(settings)) == sorted(CheckId.__members__)


def test_table_shows_every_check_and_every_remedy(settings: Settings) -> None:
    checks = [*examine(settings), Check(CheckId.DISK, "no", "a [bold]mark[/]", "do [this]")]
    console = Console(record=True, width=200, file=open("/dev/null", "w"))  # noqa: SIM115 - closed with the console
    console.print(table(checks))
    text = console.export_text()
    assert all(check.name in text and check.found in text for check in checks)
    assert all(check.remedy in text for check in checks if check.state != "yes")
