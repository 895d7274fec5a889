"""What this machine can run, and why not: each check with what was found and a one-line remedy."""

from __future__ import annotations

import enum
import importlib.metadata
import importlib.util
import platform
import re
import shutil
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from eet_demo.errors import KernelCompileError
from eet_demo.machine import hardware
from eet_demo.machine.gpu import Gpu, find_gpu
from eet_demo.models import catalog
from eet_demo.models.hub import PROBE_SECONDS, Hub
from eet_demo.settings import Settings

if TYPE_CHECKING:
    from rich.table import Table

DEFAULT_MODEL = "smollm2-135m"
PYTHONS = ((3, 11), (3, 12))
NEEDED = (
    "torch",
    "transformers",
    "accelerate",
    "tokenizers",
    "safetensors",
    "numpy",
    "gguf",
    "gradio",
    "fastjsonschema",
)
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
CUPY_DRIVERS = {"cupy-cuda13x": 580, "cupy-cuda12x": 525}
"""Oldest driver of each CuPy build (https://docs.nvidia.com/cuda/cuda-toolkit-release-notes, "CUDA Driver")."""

OLDEST_CAPABILITY = 75
"""Oldest GPU whose kernels there are, as the executor has it (sm_75, Turing)."""

_GIB = 2**30
_RACE_BYTES = 3 * _GIB  # both sides of the default model in float32 at a few thousand ids, and their processes

State = Literal["yes", "no", "slow", "unneeded"]


class CheckId(enum.Enum):
    """What is looked at: its name, and what it is for, in words that nothing decides by."""

    PYTHON = ("Python", "everything")
    PACKAGES = ("packages", "everything")
    COMPILER = ("C++ compiler", "the engine on a CPU")
    PROCESSOR = ("processor", "speed")
    MEMORY = ("memory", "the default model")
    MODEL = ("default model", "the default race")
    DISK = ("disk", "models")
    GPU = ("GPU", "the engine on a GPU")
    CUPY = ("CuPy", "the engine on a GPU")
    TORCH = ("torch for CUDA", "the engine on a GPU")
    DEVICE_CPU = ("device cpu", "races on the processor")
    DEVICE_CUDA = ("device cuda", "races on the GPU")
    DEVICE_SIM = ("device sim", "the GPU's kernels without a GPU")
    BROWSER = ("Chromium", "browser tests")
    HUB = ("Hugging Face Hub", "more models")


@dataclass(frozen=True)
class Check:
    """One line of the report. `state`: yes, no, slow (it runs, but below what it could), unneeded (an extra)."""

    id: CheckId
    state: State
    found: str
    remedy: str = ""

    @property
    def name(self) -> str:
        return self.id.value[0]

    @property
    def purpose(self) -> str:
        return self.id.value[1]


def examine(settings: Settings) -> list[Check]:
    """Every check, the ones that everything needs first. Asks the network for at most PROBE_SECONDS, or not at all."""
    hub = Hub(enabled=not settings.hub_offline)
    hub.start()  # answers while the rest is looked at
    there, visible = find_gpu(), find_gpu(settings.cuda_visible_devices, settings.cuda_device_order)
    compiler, gpu, cupy, torch = _compiler(), _gpu(there, visible), _cupy(visible or there), _torch()
    checks = [
        _python(),
        _packages(),
        compiler,
        _cpu(settings),
        _memory(settings),
        _model(settings),
        _disk(settings),
        gpu,
        cupy,
        torch,
        _device(CheckId.DEVICE_CPU, [compiler]),
        _device(CheckId.DEVICE_CUDA, [gpu, cupy, torch]),
        _device(CheckId.DEVICE_SIM, [compiler]),
        _browser(),
    ]
    return [*checks, _hub(hub)]


def _device(device: CheckId, needs: Iterable[Check]) -> Check:
    """A device runs when all it needs is there; else the first thing that is missing, with its remedy."""
    missing = next((check for check in needs if check.state != "yes"), None)
    if missing is None:
        return Check(device, "yes", "can run")
    return Check(device, "unneeded", f"{missing.name}: {missing.found}", missing.remedy)


def can_race(checks: Iterable[Check]) -> bool:
    """Whether the default race runs: nothing that it needs is missing."""
    return all(check.state != "no" for check in checks)


def _python() -> Check:
    found = platform.python_version()
    if sys.version_info[:2] in PYTHONS:
        return Check(CheckId.PYTHON, "yes", found)
    return Check(CheckId.PYTHON, "no", found, "Install Python 3.12 and run: make PYTHON=python3.12 setup")


def _packages() -> Check:
    versions = {name: _version(name) for name in NEEDED}
    if missing := [name for name, version in versions.items() if version is None]:
        return Check(CheckId.PACKAGES, "no", f"missing: {', '.join(missing)}", "Run: make setup")
    shown = ", ".join(f"{name} {versions[name]}" for name in ("torch", "transformers", "gradio"))
    return Check(CheckId.PACKAGES, "yes", shown)


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _compiler() -> Check:
    from eet_demo.engine.executors.cpu.compiler import find_compiler

    try:
        return Check(CheckId.COMPILER, "yes", find_compiler())
    except KernelCompileError as error:
        return Check(CheckId.COMPILER, "no", "none", error.remedy)


def _cpu(settings: Settings) -> Check:
    features = hardware.cpu_features()
    known = ("avx512f", "avx512_vnni", "avx_vnni", "avx2", "fma", "f16c", "asimd", "i8mm")
    wide = [name for name in known if name in features]
    found = (
        f"{hardware.cpu_name()}, {hardware.usable_cores(settings.threads)} cores, {' '.join(wide) or 'no vector units'}"
    )
    if {"avx2", "fma"} <= features or "asimd" in features:
        return Check(CheckId.PROCESSOR, "yes", found)
    return Check(CheckId.PROCESSOR, "slow", found, "It runs, slowly: kernels are fast with AVX2 and FMA, or on ARM64.")


def _memory(settings: Settings) -> Check:
    available = hardware.available_memory_bytes(settings.memory_limit)
    found = f"{available / _GIB:.1f} GiB available"
    if available >= _RACE_BYTES:
        return Check(CheckId.MEMORY, "yes", found)
    remedy = f"Close other programs, or raise the container's limit, to {_RACE_BYTES // _GIB} GiB."
    return Check(CheckId.MEMORY, "slow", found, remedy)


def _model(settings: Settings) -> Check:
    folder = catalog.local_folder(DEFAULT_MODEL, settings.models_dir)
    if folder is not None:
        return Check(CheckId.MODEL, "yes", str(folder))
    return Check(CheckId.MODEL, "no", "not here", f"Run: python -m eet_demo fetch {DEFAULT_MODEL}")


def _disk(settings: Settings) -> Check:
    folder = settings.models_dir
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    entry = catalog.find(DEFAULT_MODEL)
    here = catalog.local_folder(DEFAULT_MODEL, settings.models_dir) is not None
    found = f"{free / _GIB:.1f} GiB free for {settings.models_dir}"
    if here or free >= 5 * entry.parameters:
        return Check(CheckId.DISK, "yes", found)
    return Check(CheckId.DISK, "no", found, "Free a GiB, or set EET_DEMO_MODELS_DIR to a larger disk.")


def _gpu(there: Gpu | None, visible: Gpu | None) -> Check:
    """The GPU that CUDA would use; one that is `there` and that a process does not see is hidden by CUDA's settings."""
    gpu = visible or there
    if gpu is None:
        remedy = "Races run on the CPU. With an NVIDIA GPU, install its driver."
        return Check(CheckId.GPU, "unneeded", "no NVIDIA driver or device", remedy)
    memory, driver, capability = gpu.memory_bytes, gpu.driver, gpu.capability
    known = (f"{memory / _GIB:.0f} GiB" if memory is not None else "", f"driver {driver}" if driver is not None else "")
    found = ", ".join((gpu.name or "an NVIDIA GPU", *filter(None, known)))
    if visible is None:
        return Check(CheckId.GPU, "unneeded", f"{found}, hidden", "Unset CUDA_VISIBLE_DEVICES.")
    if capability is not None and capability < OLDEST_CAPABILITY:
        remedy = f"Kernels need sm_{OLDEST_CAPABILITY} (Turing, 2018) or later: races run on the CPU."
        return Check(CheckId.GPU, "unneeded", f"{found}, sm_{capability} is too old", remedy)
    return Check(CheckId.GPU, "yes", found)


def _cupy(gpu: Gpu | None) -> Check:
    """Whether a CuPy is installed that the driver can run; a driver that does not tell its version may be any."""
    installed = next((name for name in CUPY_DRIVERS if _version(name)), None)
    found = f"{installed} {_version(installed)}" if installed else "none"
    if gpu is None:
        return Check(CheckId.CUPY, "unneeded", found, "Only of use with an NVIDIA GPU.")
    major = int(gpu.driver.split(".")[0]) if gpu.driver is not None else max(CUPY_DRIVERS.values())
    fitting = next((name for name, oldest in CUPY_DRIVERS.items() if major >= oldest), None)
    if fitting is None:
        return Check(CheckId.CUPY, "unneeded", found, "Update the NVIDIA driver to 525 or newer.")
    if installed and major >= CUPY_DRIVERS[installed]:
        return Check(CheckId.CUPY, "yes", found)
    return Check(CheckId.CUPY, "unneeded", found, f"Driver {gpu.driver} wants: pip install {fitting}")


def _torch() -> Check:
    """Whether torch was built for CUDA, read from its version file: importing it takes seconds and 300 MB."""
    version = _version("torch")
    if version is None:
        return Check(CheckId.TORCH, "unneeded", "no torch", "Run: make setup")
    spec = importlib.util.find_spec("torch")
    folder = Path(next(iter((spec and spec.submodule_search_locations) or []), ""))
    built = re.search(r"^cuda\b[^=]*= *'([\d.]+)'", _text(folder / "version.py"), re.MULTILINE)
    if built is None:
        remedy = "With an NVIDIA GPU: pip install --force-reinstall torch, of a build for CUDA."
        return Check(CheckId.TORCH, "unneeded", f"torch {version}, for CPU alone", remedy)
    return Check(CheckId.TORCH, "yes", f"torch {version}, CUDA {built.group(1)}")


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError:
        return ""


def _browser() -> Check:
    path = next((found for name in BROWSERS if (found := shutil.which(name))), None)
    if path:
        return Check(CheckId.BROWSER, "yes", path)
    return Check(CheckId.BROWSER, "unneeded", "none", "Tests skip the page; Debian: apt-get install chromium")


def _hub(hub: Hub) -> Check:
    if not hub.enabled:
        return Check(CheckId.HUB, "unneeded", "switched off", "Unset EET_DEMO_HUB_OFFLINE.")
    deadline = time.monotonic() + PROBE_SECONDS
    while hub.reachable is None and time.monotonic() < deadline:
        time.sleep(0.02)
    if hub.reachable:
        return Check(CheckId.HUB, "yes", "reachable")
    return Check(CheckId.HUB, "unneeded", "not reachable", "The default model does not need it.")


def table(checks: Iterable[Check]) -> Table:
    """The report for a terminal."""
    from rich.table import Table
    from rich.text import Text

    marks = {"yes": ("yes", "green"), "no": ("NO", "bold red"), "slow": ("slow", "yellow"), "unneeded": ("-", "dim")}
    view = Table(box=None, pad_edge=False, show_edge=False)
    for heading in ("", "", "for", "found"):
        view.add_column(heading, overflow="fold")
    for check in checks:
        mark, style = marks[check.state]
        found = Text(check.found) if check.state == "yes" else Text.assemble(check.found, (f"\n{check.remedy}", style))
        view.add_row(Text(mark, style), check.name, check.purpose, found)
    return view
