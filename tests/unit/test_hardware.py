"""What this process may use, read from made-up machines."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from eet_demo.machine import hardware
from eet_demo.machine.gpu import find_gpu
from tests.fake_nvml import Card, FakeNvml

MIB = 2**20


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """8 CPUs, 16 GiB of which 12 are free, no container; a test adds files under `cgroup`."""
    monkeypatch.setattr(hardware, "CGROUP_ROOT", tmp_path / "cgroup")
    monkeypatch.setattr(hardware, "MEMBERSHIP", tmp_path / "membership")
    monkeypatch.setattr(hardware, "CPUINFO", tmp_path / "cpuinfo")
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: set(range(8)))
    memory = SimpleNamespace(total=16384 * MIB, available=12288 * MIB)
    monkeypatch.setattr("psutil.virtual_memory", lambda: memory)
    return tmp_path


def write(path: Path, text: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{text}\n")


def test_bare_machine_has_what_it_has(machine: Path) -> None:
    assert hardware.usable_cores() == 8
    assert hardware.available_memory_bytes() == 12288 * MIB
    assert hardware.read_hardware().memory_bytes == 16384 * MIB


def test_owners_settings_only_lower_the_limits(machine: Path) -> None:
    assert hardware.usable_cores(3) == 3
    assert hardware.usable_cores(99) == 8
    assert hardware.available_memory_bytes(100) == 100
    assert hardware.available_memory_bytes(2**50) == 12288 * MIB


def test_affinity_lowers_the_cores(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: {2, 5})
    assert hardware.usable_cores() == 2


@pytest.mark.parametrize(
    ("quota", "cores"), [("200000 100000", 2), ("150000 100000", 1), ("10000 100000", 1), ("max 100000", 8)]
)
def test_version_2_quota(machine: Path, quota: str, cores: int) -> None:
    write(machine / "membership", "0::/")
    write(machine / "cgroup/cpu.max", quota)
    assert hardware.usable_cores() == cores


def test_cpu_time_is_that_of_the_tightest_quota(machine: Path) -> None:
    assert hardware.group_cpu_seconds() is None
    write(machine / "membership", "0::/user/session")
    write(machine / "cgroup/cpu.stat", "usage_usec 9000000")
    assert hardware.group_cpu_seconds() is None, "nothing limits this group"
    write(machine / "cgroup/user/cpu.max", "200000 100000")
    write(machine / "cgroup/user/cpu.stat", "usage_usec 2500000\nuser_usec 2000000")
    write(machine / "cgroup/user/session/cpu.max", "400000 100000")
    write(machine / "cgroup/user/session/cpu.stat", "usage_usec 1000000")
    assert hardware.group_cpu_seconds() == 2.5


@pytest.mark.parametrize(("quota", "cores"), [(300000, 3), (-1, 8)])
def test_version_1_quota(machine: Path, quota: int, cores: int) -> None:
    write(machine / "membership", "3:cpu,cpuacct:/\n2:memory:/")
    write(machine / "cgroup/cpu,cpuacct/cpu.cfs_quota_us", quota)
    write(machine / "cgroup/cpu,cpuacct/cpu.cfs_period_us", 100000)
    assert hardware.usable_cores() == cores


def test_tightest_level_of_the_hierarchy_counts(machine: Path) -> None:
    write(machine / "membership", "0::/user/session")
    write(machine / "cgroup/user/session/memory.max", "max")
    write(machine / "cgroup/user/session/memory.current", 10 * MIB)
    write(machine / "cgroup/user/memory.max", 4096 * MIB)
    write(machine / "cgroup/user/memory.current", 1096 * MIB)
    write(machine / "cgroup/memory.max", 8192 * MIB)
    write(machine / "cgroup/memory.current", 2000 * MIB)
    assert hardware.available_memory_bytes() == 3000 * MIB
    assert hardware.read_hardware().memory_bytes == 4096 * MIB


def test_droppable_page_cache_is_not_used_memory(machine: Path) -> None:
    write(machine / "membership", "0::/")
    write(machine / "cgroup/memory.max", 4096 * MIB)
    write(machine / "cgroup/memory.current", 4000 * MIB)
    write(machine / "cgroup/memory.stat", f"anon 1\ninactive_file {3000 * MIB}\nactive_file 5")
    assert hardware.available_memory_bytes() == 3096 * MIB


def test_version_1_memory(machine: Path) -> None:
    write(machine / "membership", "4:memory:/docker/abc\n0::/docker/abc")
    write(machine / "cgroup/memory/memory.limit_in_bytes", 2048 * MIB)
    write(machine / "cgroup/memory/memory.usage_in_bytes", 1024 * MIB)
    write(machine / "cgroup/memory/memory.stat", f"inactive_file 1\ntotal_inactive_file {24 * MIB}")
    assert hardware.available_memory_bytes() == 1048 * MIB


def test_version_1_without_a_limit(machine: Path) -> None:
    write(machine / "membership", "4:memory:/")
    write(machine / "cgroup/memory/memory.limit_in_bytes", 9223372036854771712)
    write(machine / "cgroup/memory/memory.usage_in_bytes", 1024 * MIB)
    assert hardware.available_memory_bytes() == 12288 * MIB


def test_group_beyond_its_limit_has_nothing_left(machine: Path) -> None:
    write(machine / "membership", "0::/")
    write(machine / "cgroup/memory.max", 10)
    write(machine / "cgroup/memory.current", 20)
    assert hardware.available_memory_bytes() == 0


def test_cpu_is_named_with_its_features(machine: Path) -> None:
    write(machine / "cpuinfo", "processor\t: 0\nmodel name\t: Fast CPU @ 3 GHz\nflags\t\t: fpu avx2 fma\n")
    assert hardware.cpu_name() == "Fast CPU @ 3 GHz"
    assert hardware.cpu_features() == {"fpu", "avx2", "fma"}


def test_arm_cpu_has_a_name_and_features_too(machine: Path) -> None:
    write(machine / "cpuinfo", "processor\t: 0\nFeatures\t: fp asimd\n")
    assert hardware.cpu_name()
    assert hardware.cpu_features() == {"fp", "asimd"}


def test_gpu_is_the_one_that_is_given(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    FakeNvml(Card("NVIDIA H100 80GB HBM3", "GPU-1")).install(monkeypatch)
    found = hardware.read_hardware(gpu=find_gpu())
    assert (found.gpu, found.gpu_memory_bytes, found.driver) == ("NVIDIA H100 80GB HBM3", 80 * 2**30, "580.159.03")
    bare = hardware.read_hardware()
    assert (bare.gpu, bare.gpu_memory_bytes, bare.driver) == (None, None, None)


def test_this_machine_can_be_read() -> None:
    found = hardware.read_hardware()
    assert found.cpu
    assert found.cores >= 1
    assert 0 < hardware.available_memory_bytes() <= found.memory_bytes


def test_leaf_modules_load_nothing_heavy() -> None:
    code = (
        "import sys, eet_demo.machine.hardware, eet_demo.models.catalog, eet_demo.text.tokens; "
        "import eet_demo.text.prompts, eet_demo.models.fetch; "
        "print({name.split('.')[0] for name in sys.modules} & "
        "{'torch', 'gradio', 'pydantic', 'transformers', 'cupy', 'gguf', 'huggingface_hub'})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
