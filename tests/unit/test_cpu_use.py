"""What others took of the machine: counters of a made-up one, and the real ones beside work of known size."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from types import SimpleNamespace

import psutil
import pytest

from eet_demo.machine import cpu_use, hardware
from eet_demo.machine.cpu_use import CpuTimes, OthersUse, others_use, read_cpu_times


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Iterator[SimpleNamespace]:
    """Four processors, of which this process may use 1 and 3, and two processes of its race."""
    idle = dict.fromkeys(("user", "nice", "system", "idle", "iowait", "irq", "softirq", "steal", "guest"), 0.0)
    made = SimpleNamespace(
        processors=[SimpleNamespace(**idle | {"idle": 1000.0}) for _ in range(4)],
        processes={os.getpid(): 1.0, 42: 2.0},
        group_s=None,
    )

    class Process:
        def __init__(self, pid: int) -> None:
            if pid not in made.processes:
                raise psutil.NoSuchProcess(pid)
            self.pid = pid

        def cpu_times(self) -> SimpleNamespace:
            return SimpleNamespace(user=made.processes[self.pid], system=0.5, children_user=0.25, children_system=0.0)

    monkeypatch.setattr(psutil, "cpu_times", lambda percpu: made.processors)
    monkeypatch.setattr(psutil, "Process", Process)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {1, 3})
    monkeypatch.setattr(hardware, "usable_cores", lambda: made.cores if made.group_s is not None else 2)
    monkeypatch.setattr(hardware, "group_cpu_seconds", lambda: made.group_s)
    return made


def test_busy_is_what_is_neither_idle_nor_a_wait_on_the_processors_of_this_process(machine: SimpleNamespace) -> None:
    machine.processors[1].user, machine.processors[1].guest = 3.0, 2.0  # a guest's time lies in `user`
    machine.processors[1].iowait = 50.0
    machine.processors[3].system, machine.processors[3].steal = 1.0, 0.5
    machine.processors[0].user = 77.0  # not ours to use
    found = read_cpu_times([42])
    assert (found.cores, found.all_s) == (2, 4.5)
    assert found.own_s == pytest.approx(1.0 + 2.0 + 2 * 0.75)


def test_process_that_has_ended_takes_nothing(machine: SimpleNamespace) -> None:
    assert read_cpu_times([43]).own_s == read_cpu_times([]).own_s == 1.75


def test_in_a_container_with_a_quota_its_own_processes_count(machine: SimpleNamespace) -> None:
    machine.processors[1].user = 500.0  # neighbours of the container
    machine.group_s, machine.cores = 12.0, 1
    found = read_cpu_times([42])
    assert (found.cores, found.all_s) == (1, 12.0)
    machine.cores = 2  # a quota that limits nothing: the processors tell more
    assert read_cpu_times([42]).all_s == 500.0


def test_others_have_what_the_race_has_not() -> None:
    before = CpuTimes(wall_s=10.0, cores=4, all_s=100.0, own_s=30.0)
    after = CpuTimes(wall_s=14.0, cores=4, all_s=111.0, own_s=38.0)
    found = others_use(before, after)
    assert found == OthersUse(cpu_s=3.0, wall_s=4.0, cores=4)
    assert found.mean_cores == 0.75
    assert others_use(before, CpuTimes(14.0, 4, 100.0, 38.0)).cpu_s == 0.0


@pytest.mark.parametrize(
    ("cpu_s", "wall_s", "cores", "said"),
    [
        (0.19, 2.0, 2, False),  # 0.095 of 2 cores
        (0.21, 2.0, 2, True),
        (0.7, 2.0, 8, False),  # a browser that draws, on a machine of eight
        (0.9, 2.0, 8, True),
        (0.09, 0.3, 2, False),  # 15 %, but no more than ticks may differ
        (0.0, 0.0, 2, False),
    ],
)
def test_little_use_is_not_worth_saying(cpu_s: float, wall_s: float, cores: int, said: bool) -> None:
    assert OthersUse(cpu_s, wall_s, cores).worth_saying == said


def test_words_have_the_figure() -> None:
    words = OthersUse(cpu_s=1.5, wall_s=2.0, cores=2).words("stock")
    assert words.startswith("other programs took 0.75 of 2 cores while stock ran")


def test_intervals_add_up() -> None:
    total = OthersUse.total([OthersUse(0.5, 1.0, 2), OthersUse(0.1, 3.0, 2)])
    assert (total.cpu_s, total.wall_s, total.mean_cores) == pytest.approx((0.6, 4.0, 0.15))


BUSY_S = 0.5
SPIN = f"import time\nwhile time.process_time() < {BUSY_S}: pass\nprint(flush=True)\ninput()"


@pytest.mark.parametrize("ours", [True, False])
def test_real_work_is_ours_or_others(ours: bool) -> None:
    """A process that takes half a CPU second: in the counters of all, and in the race's own only when it is named."""
    before = read_cpu_times([])
    with subprocess.Popen([sys.executable, "-c", SPIN], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        after = read_cpu_times([process.pid] if ours else [])
        process.communicate(b"\n")
    assert after.all_s - before.all_s > BUSY_S - cpu_use.TICKS_S
    assert (after.own_s - before.own_s > BUSY_S - cpu_use.TICKS_S) == ours
