"""Memory of a process by kind, as the operating system counts it: RSS, USS, VmHWM, and NVML's bytes on a GPU.

Never one number: what a side says of its own regions (weights, KV cache, workspace) is reported beside these.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType

import psutil


def process_bytes(pid: int) -> int:
    """Resident bytes (RSS) of a process. Raises psutil.NoSuchProcess when it is gone."""
    return int(psutil.Process(pid).memory_info().rss)


def process_peak_bytes(pid: int) -> int | None:
    """VmHWM: most resident bytes since the start or the last `reset_peak`; None where the kernel has no such count."""
    try:
        status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    except OSError:
        return None
    found = re.search(r"^VmHWM:\s+(\d+) kB$", status, re.MULTILINE)
    return int(found.group(1)) * 1024 if found else None


def process_unique_bytes(pid: int) -> int | None:
    """USS: bytes that would be freed if the process ended. Walks all pages: call it outside the clocks."""
    try:
        return int(psutil.Process(pid).memory_full_info().uss)
    except (psutil.AccessDenied, psutil.NoSuchProcess, AttributeError):
        return None


def reset_peak() -> bool:
    """Lets this process's VmHWM start again from its present RSS (proc(5), clear_refs); False where that is refused."""
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except OSError:
        return False
    return True


class ProcessMemory:
    """What the system says of one process, cheap enough for ten samples a second."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._process = psutil.Process(pid)
        self._gpu = GpuMemory() if GpuMemory.available() else None

    def sample(self, unique: bool = False) -> dict[str, int]:
        """`process` (RSS), `process_peak` (VmHWM) and, with a GPU, NVML's; empty once the process is gone.

        Args:
            unique: also `process_unique` (USS), which walks all pages: outside the clocks.
        """
        try:
            kinds = {"process": int(self._process.memory_info().rss)}
        except psutil.NoSuchProcess:
            return {}
        peak = process_peak_bytes(self._pid)
        if peak:
            kinds["process_peak"] = peak
        uss = process_unique_bytes(self._pid) if unique else None
        if uss is not None:
            kinds["process_unique"] = uss
        return kinds | dict(self._gpu.sample(self._pid) if self._gpu is not None else {})


class GpuMemory:
    """Bytes on GPU 0 through NVML: this process's and the device's. Built once; `sample` is cheap.

    Raises:
        OSError: there is no NVML here; callers ask `GpuMemory.available()` first.
    """

    def __init__(self) -> None:
        nvml = nvml_library()
        if nvml is None:
            raise OSError("no NVIDIA driver answers NVML on this machine; GPU memory cannot be sampled")
        self._nvml = nvml
        self._device = nvml.nvmlDeviceGetHandleByIndex(0)

    @staticmethod
    def available() -> bool:
        return nvml_library() is not None

    def free_bytes(self) -> int:
        return int(self._nvml.nvmlDeviceGetMemoryInfo(self._device).free)

    def sample(self, pid: int) -> Mapping[str, int]:
        """`device_process` (NVML's bytes of `pid`) and `device_total` (used on the whole device)."""
        processes = self._nvml.nvmlDeviceGetComputeRunningProcesses(self._device)
        used = sum(process.usedGpuMemory or 0 for process in processes if process.pid == pid)
        return {"device_process": used, "device_total": int(self._nvml.nvmlDeviceGetMemoryInfo(self._device).used)}


def nvml_library() -> ModuleType | None:
    """pynvml, initialised; None where the package or the driver is missing."""
    try:
        nvml = importlib.import_module("pynvml")
    except ImportError:
        return None
    try:
        nvml.nvmlInit()
    except nvml.NVMLError:
        return None
    return nvml
