"""Memory of a process by kind, as the operating system counts it: RSS, USS, VmHWM, and NVML's bytes on a GPU.

Never one number: what a side says of its own regions (weights, KV cache, workspace) is reported beside these.
"""

from __future__ import annotations

import re
from pathlib import Path

import psutil

from eet_demo.machine.gpu import Gpu


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

    def __init__(self, pid: int, gpu: Gpu | None = None) -> None:
        self._pid = pid
        self._process = psutil.Process(pid)
        self._gpu = gpu

    def sample(self, unique: bool = False) -> dict[str, int]:
        """`process` (RSS), `process_peak` (VmHWM) and, of a GPU, `device_process` and `device_total`.

        A kind that is not known is left out; all are once the process is gone.

        Args:
            unique: also `process_unique` (USS), which walks all pages: outside the clocks.
        """
        try:
            resident = int(self._process.memory_info().rss)
        except psutil.NoSuchProcess:
            return {}
        kinds = {
            "process": resident,
            "process_peak": process_peak_bytes(self._pid),
            "process_unique": process_unique_bytes(self._pid) if unique else None,
            "device_process": self._gpu.process_bytes(self._pid) if self._gpu is not None else None,
            "device_total": self._gpu.used_bytes if self._gpu is not None else None,
        }
        return {kind: value for kind, value in kinds.items() if value is not None}
