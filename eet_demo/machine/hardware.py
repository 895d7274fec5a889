"""The machine as this process may use it: cores and memory after affinity, container limits and the owner's settings.

Sources: https://docs.kernel.org/admin-guide/cgroup-v2.html and .../cgroup-v1/memory.html. Limits of every level between
this process's group and the root apply, so the smallest one counts.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from pathlib import Path

import psutil

from eet_demo.machine.gpu import Gpu
from eet_demo.records import Hardware

CGROUP_ROOT = Path("/sys/fs/cgroup")
MEMBERSHIP = Path("/proc/self/cgroup")
CPUINFO = Path("/proc/cpuinfo")

_UNLIMITED_BYTES = 1 << 60  # version 1 writes a number near 2**63 for "no limit"


def read_hardware(
    threads: int | None = None, memory_limit_bytes: int | None = None, gpu: Gpu | None = None
) -> Hardware:
    """The machine for the record of a race: the owner's settings (None for none), and the GPU that a race may use."""
    return Hardware(
        cpu=cpu_name(),
        cores=usable_cores(threads),
        memory_bytes=_least(psutil.virtual_memory().total, _cgroup_limit_bytes(), memory_limit_bytes),
        gpu=gpu.name if gpu is not None else None,
        gpu_memory_bytes=gpu.memory_bytes if gpu is not None else None,
        driver=gpu.driver if gpu is not None else None,
    )


def usable_cores(setting: int | None = None) -> int:
    """Threads that can really run at once: min(affinity, cgroup quota, the owner's setting), at least 1."""
    return max(1, _least(len(os.sched_getaffinity(0)), _cgroup_cores(), setting))


def group_cpu_seconds() -> float | None:
    """CPU seconds so far of all processes under this process's tightest CPU quota; None without one that counts."""
    quotas = sorted(_quotas(), key=lambda quota: quota[1])
    stat = dict(line.split(" ", 1) for line in _read(quotas[0][0] / "cpu.stat").splitlines()) if quotas else {}
    return int(stat["usage_usec"]) / 1e6 if "usage_usec" in stat else None


def available_memory_bytes(setting: int | None = None) -> int:
    """Bytes that may still be allocated: min(free and reclaimable, cgroup limit - usage, the owner's setting)."""
    return max(0, _least(psutil.virtual_memory().available, _cgroup_available_bytes(), setting))


def cpu_name() -> str:
    """The processor's name as the kernel has it, else its architecture."""
    return _cpuinfo("model name") or platform.processor() or platform.machine()


def cpu_features() -> frozenset[str]:
    """Instruction sets, in the kernel's words: `avx2`, `fma`, `avx512f`, `asimd`, ..."""
    return frozenset((_cpuinfo("flags") or _cpuinfo("Features")).split())


def _cpuinfo(key: str) -> str:
    for line in _read(CPUINFO).splitlines():
        name, _, value = line.partition(":")
        if name.strip() == key:
            return value.strip()
    return ""


def _least(*values: int | None) -> int:
    return min(value for value in values if value is not None)


def _read(path: Path) -> str:
    """The file's text; empty where there is none (another kernel, another cgroup version)."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _number(path: Path) -> int | None:
    """The file's only number; None for no file, `max` or -1."""
    text = _read(path).strip()
    return int(text) if text.isdigit() else None


def _folders(controller: str) -> Iterator[Path]:
    """Folders of this process's groups that may limit it, its own first; of version 2 and of version 1's controller.

    Inside a container the path in /proc may name folders that only the host has; the mounted root is the group then.
    """
    for line in _read(MEMBERSHIP).splitlines():
        _, controllers, group = line.split(":", 2)
        if controllers == "":
            mounts = [CGROUP_ROOT, CGROUP_ROOT / "unified"]
        elif controller in controllers.split(","):
            mounts = [CGROUP_ROOT / controllers, CGROUP_ROOT / controller]
        else:
            continue
        for mount in mounts:
            inside = mount / group.lstrip("/")
            yield from (folder for folder in (inside, *inside.parents) if folder.is_relative_to(mount))


def _cgroup_cores() -> int | None:
    """Whole cores of the tightest CPU quota (at least 1); None without one."""
    return min((cores for _, cores in _quotas()), default=None)


def _quotas() -> Iterator[tuple[Path, int]]:
    """(folder, whole cores) of every group with a CPU quota."""
    for folder in _folders("cpu"):
        quota, _, period = _read(folder / "cpu.max").strip().partition(" ")  # version 2: "max 100000"
        if not quota:
            quota, period = _read(folder / "cpu.cfs_quota_us").strip(), _read(folder / "cpu.cfs_period_us").strip()
        if quota.isdigit() and period.isdigit():
            yield folder, max(1, int(quota) // int(period))


def _cgroup_limit_bytes() -> int | None:
    limits = [limit for folder in _folders("memory") if (limit := _limit_bytes(folder)) is not None]
    return min(limits, default=None)


def _limit_bytes(folder: Path) -> int | None:
    limit = _number(folder / "memory.max") or _number(folder / "memory.limit_in_bytes")
    return limit if limit is not None and limit < _UNLIMITED_BYTES else None


def _cgroup_available_bytes() -> int | None:
    """Limit - usage of the tightest group; page cache that the kernel drops first does not count as used."""
    left = []
    for folder in _folders("memory"):
        limit = _limit_bytes(folder)
        used = _number(folder / "memory.current") or _number(folder / "memory.usage_in_bytes")
        if limit is not None and used is not None:
            left.append(limit - max(0, used - _droppable_bytes(folder)))
    return min(left, default=None)


def _droppable_bytes(folder: Path) -> int:
    stat = dict(line.split(" ", 1) for line in _read(folder / "memory.stat").splitlines() if " " in line)
    return int(stat.get("total_inactive_file") or stat.get("inactive_file") or 0)
