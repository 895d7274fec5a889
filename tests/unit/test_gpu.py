"""The GPU that is asked is the one CUDA uses; what NVML does not tell is absent."""

from __future__ import annotations

import sys

import pytest

from eet_demo.machine.gpu import find_gpu
from tests.fake_nvml import GIB, Card, FakeNvml

SMALL = Card("NVIDIA T4", "GPU-aaaa1111-t4", (16 * GIB, GIB), (7, 5), cores=2560, processes={7: 5, 8: 0, 9: None})
LARGE = Card("NVIDIA H100 80GB HBM3", "GPU-bbbb2222-h100", cores=16896, processes={7: 300, 42: 500})
PARTS = [Card("H100 MIG 1g.10gb", f"MIG-{name}", (10 * GIB, GIB)) for name in ("cccc-first", "dddd-second")]
DIVIDED = Card("NVIDIA H100 80GB HBM3", "GPU-eeee3333", parts=PARTS)

FIGURES = ("name", "uuid", "driver", "capability", "memory_bytes", "free_bytes", "used_bytes", "max_memory_clock_mhz",
           "memory_bus_bits")  # fmt: skip


@pytest.mark.parametrize(
    ("visible", "order", "name"),
    [
        (None, None, LARGE.name),  # CUDA's own order begins with the fastest
        (None, "FASTEST_FIRST", LARGE.name),
        (None, "PCI_BUS_ID", SMALL.name),
        ("0", "PCI_BUS_ID", SMALL.name),
        ("1", "PCI_BUS_ID", LARGE.name),
        ("1", None, SMALL.name),
        (" 1, 0", "PCI_BUS_ID", LARGE.name),
        ("GPU-aaaa1111-t4", None, SMALL.name),
        ("GPU-bbbb,GPU-aaaa", "PCI_BUS_ID", LARGE.name),
        ("GPU-ffff", None, None),
        ("2", None, None),
        ("", None, None),
        ("-1", None, None),
        ("-1,0", None, None),
        ("none", None, None),
    ],
)
def test_device_is_the_one_that_cuda_calls_0(
    monkeypatch: pytest.MonkeyPatch, visible: str | None, order: str | None, name: str | None
) -> None:
    FakeNvml(SMALL, LARGE).install(monkeypatch)
    found = find_gpu(visible, order)
    assert (found and found.name) == name


@pytest.mark.parametrize(
    ("visible", "name"),
    [(None, PARTS[0].uuid), ("0", PARTS[0].uuid), ("GPU-eeee", PARTS[0].uuid), ("MIG-dddd", PARTS[1].uuid)],
)
def test_divided_card_is_the_part_that_cuda_uses(
    monkeypatch: pytest.MonkeyPatch, visible: str | None, name: str
) -> None:
    FakeNvml(DIVIDED).install(monkeypatch)
    found = find_gpu(visible)
    assert found is not None
    assert found.uuid == name
    assert found.memory_bytes == 10 * GIB
    assert find_gpu("MIG-none") is None


def test_card_divided_into_nothing_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    FakeNvml(Card("H100", "GPU-a", parts=[])).install(monkeypatch)
    assert find_gpu() is None


def test_figures_are_the_devices_own(monkeypatch: pytest.MonkeyPatch) -> None:
    FakeNvml(SMALL, LARGE).install(monkeypatch)
    found = find_gpu("0", "PCI_BUS_ID")
    assert found is not None
    values = ("NVIDIA T4", "GPU-aaaa1111-t4", "580.159.03", 75, 16 * GIB, 15 * GIB, GIB, 2619, 5120)
    assert tuple(getattr(found, name) for name in FIGURES) == values
    assert found.process_bytes(7) == 5


def test_process_that_nvml_cannot_count_holds_no_known_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Containers: processes are listed with 0 bytes, or under the host's numbers."""
    FakeNvml(SMALL).install(monkeypatch)
    found = find_gpu()
    assert found is not None
    assert [found.process_bytes(pid) for pid in (8, 9, 10)] == [None, None, None]


ASKED = sorted(name for name in vars(FakeNvml) if name.startswith("nvml"))


@pytest.mark.parametrize("call", ASKED)
def test_call_that_fails_is_an_absent_figure(monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    """One at a time: nothing raises, and at most what that call tells is missing."""
    FakeNvml(SMALL, fails=[call]).install(monkeypatch)
    found = find_gpu()
    if call in ("nvmlInit", "nvmlDeviceGetCount", "nvmlDeviceGetHandleByIndex"):
        assert found is None
        return
    assert found is not None
    missing = {
        "nvmlDeviceGetName": {"name"},
        "nvmlDeviceGetUUID": {"uuid"},
        "nvmlSystemGetDriverVersion": {"driver"},
        "nvmlDeviceGetCudaComputeCapability": {"capability"},
        "nvmlDeviceGetMemoryInfo": {"memory_bytes", "free_bytes", "used_bytes"},
        "nvmlDeviceGetMaxClockInfo": {"max_memory_clock_mhz"},
        "nvmlDeviceGetMemoryBusWidth": {"memory_bus_bits"},
    }.get(call, set())
    assert {name for name in FIGURES if getattr(found, name) is None} == missing
    assert (found.process_bytes(7) is None) == (call == "nvmlDeviceGetComputeRunningProcesses")


def test_device_that_tells_nothing_is_still_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a virtual GPU may be: it is there, and every figure is absent."""
    reach = ("nvmlInit", "nvmlDeviceGetCount", "nvmlDeviceGetHandleByIndex")
    FakeNvml(SMALL, fails=[call for call in ASKED if call not in reach]).install(monkeypatch)
    found = find_gpu()
    assert found is not None
    assert [getattr(found, name) for name in FIGURES] == [None] * len(FIGURES)
    assert found.process_bytes(7) is None


def test_lost_card_does_not_hide_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    nvml = FakeNvml(SMALL, LARGE)

    def handle(index: int) -> Card:
        if index == 0:
            raise nvml.NVMLError("GPU is lost")
        return LARGE

    monkeypatch.setattr(nvml, "nvmlDeviceGetHandleByIndex", handle, raising=True)
    nvml.install(monkeypatch)
    found = find_gpu("0", "PCI_BUS_ID")
    assert found is not None
    assert found.name == LARGE.name


def test_machine_without_nvidias_package_has_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert find_gpu() is None


def test_fake_has_what_the_library_has() -> None:
    import pynvml

    names = [*ASKED, "NVML_CLOCK_SM", "NVML_CLOCK_MEM", "NVML_DEVICE_MIG_ENABLE", "NVMLError"]
    assert all(hasattr(pynvml, name) for name in names)
