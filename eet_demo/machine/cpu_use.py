"""Did anything else use this machine while a side was timed? CPU seconds of everybody, less those of a race's own."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import psutil

from eet_demo.machine import hardware

WORTH_SAYING = 0.05
"""Share of the CPU time there was above which others' use is said: a desktop with nothing to do stays below."""

TICKS_S = 0.1
"""CPU time is counted in ticks of 10 ms, by processor and by process: less than this may be their difference."""


@dataclass(frozen=True)
class CpuTimes:
    """Seconds counted up to one moment; two of them make an interval.

    Args:
        wall_s: perf_counter.
        cores: that this process may use, whole ones.
        all_s: CPU time of every process on them, and what a hypervisor took away.
        own_s: CPU time of the race's own processes.
    """

    wall_s: float
    cores: int
    all_s: float
    own_s: float


@dataclass(frozen=True)
class OthersUse:
    """What others took in an interval: `cpu_s` CPU seconds, out of `cores` times `wall_s`."""

    cpu_s: float
    wall_s: float
    cores: int

    @property
    def mean_cores(self) -> float:
        """Cores that they kept busy."""
        return self.cpu_s / self.wall_s if self.wall_s > 0 else 0.0

    @property
    def worth_saying(self) -> bool:
        return self.cpu_s > TICKS_S and self.mean_cores > WORTH_SAYING * self.cores

    def words(self, sides: str) -> str:
        taken = f"{self.mean_cores:.2f} of {self.cores} cores"
        return f"other programs took {taken} while {sides} ran: on an idle machine it may be faster"

    @staticmethod
    def total(uses: Sequence[OthersUse]) -> OthersUse:
        """Of several intervals on one machine, at least one."""
        return OthersUse(sum(use.cpu_s for use in uses), sum(use.wall_s for use in uses), uses[0].cores)


ReadCpu = Callable[[Iterable[int]], CpuTimes]
"""`read_cpu_times`, or what stands in for it."""


def read_cpu_times(pids: Iterable[int]) -> CpuTimes:
    """The counters as they stand now. `pids` are the race's own processes besides this one; one that has ended is 0.

    In a container with a CPU quota its processes share no more than that, and count alone; else those that run on the
    processors this process may use.
    """
    processors = os.sched_getaffinity(0)
    cores, group_s = hardware.usable_cores(), hardware.group_cpu_seconds()
    own_s = sum(_process_seconds(pid) for pid in {os.getpid(), *pids})
    if group_s is not None and cores < len(processors):
        return CpuTimes(time.perf_counter(), cores, group_s, own_s)
    every = psutil.cpu_times(percpu=True)
    mine = [times for number, times in enumerate(every) if number in processors]
    return CpuTimes(time.perf_counter(), len(mine), sum(_busy_seconds(times) for times in mine), own_s)


def others_use(before: CpuTimes, after: CpuTimes) -> OthersUse:
    """What others took between two readings of the same processes; never negative, as ticks may make it."""
    cpu_s = (after.all_s - before.all_s) - (after.own_s - before.own_s)
    return OthersUse(max(0.0, cpu_s), after.wall_s - before.wall_s, after.cores)


def _busy_seconds(times: psutil._pslinux.scputimes) -> float:
    """Guests' time is counted in `user` already."""
    return float(times.user + times.nice + times.system + times.irq + times.softirq + times.steal)


def _process_seconds(pid: int) -> float:
    """With the time of its children that have ended."""
    with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
        times = psutil.Process(pid).cpu_times()
        return float(times.user + times.system + times.children_user + times.children_system)
    return 0.0
