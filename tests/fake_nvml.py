"""NVIDIA's management library as a test has it: cards in the order of the PCI bus, and calls that fail."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import pytest

GIB = 2**30


@dataclasses.dataclass
class Card:
    """One card, or a MIG device of one. `processes`: pid -> bytes, None as NVML says it of some."""

    name: str
    uuid: str
    memory: tuple[int, int] = (80 * GIB, 10 * GIB)  # all of it, and what is used
    capability: tuple[int, int] = (9, 0)
    cores: int = 100
    processes: Mapping[int, int | None] = dataclasses.field(default_factory=dict)
    parts: Sequence[Card] | None = None


class FakeNvml:
    """The functions of `pynvml` that this project calls; those in `fails` raise."""

    NVML_CLOCK_SM, NVML_CLOCK_MEM, NVML_DEVICE_MIG_ENABLE = 1, 2, 1

    class NVMLError(Exception):
        pass

    def __init__(self, *cards: Card, fails: Sequence[str] = ()) -> None:
        self.cards, self.fails = cards, fails
        for name in fails:
            assert hasattr(self, name), name
            setattr(self, name, self._fail)

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "pynvml", self)

    def _fail(self, *arguments: Any) -> None:
        raise self.NVMLError("Not Supported")

    def nvmlInit(self) -> None:
        pass

    def nvmlDeviceGetCount(self) -> int:
        return len(self.cards)

    def nvmlSystemGetDriverVersion(self) -> str:
        return "580.159.03"

    def nvmlDeviceGetHandleByIndex(self, index: int) -> Card:
        return self.cards[index]

    def nvmlDeviceGetName(self, card: Card) -> str:
        return card.name

    def nvmlDeviceGetUUID(self, card: Card) -> str:
        return card.uuid

    def nvmlDeviceGetMemoryInfo(self, card: Card) -> Any:
        total, used = card.memory
        return SimpleNamespace(total=total, used=used, free=total - used)

    def nvmlDeviceGetComputeRunningProcesses(self, card: Card) -> list[Any]:
        return [SimpleNamespace(pid=pid, usedGpuMemory=used) for pid, used in card.processes.items()]

    def nvmlDeviceGetCudaComputeCapability(self, card: Card) -> tuple[int, int]:
        return card.capability

    def nvmlDeviceGetNumGpuCores(self, card: Card) -> int:
        return card.cores

    def nvmlDeviceGetMaxClockInfo(self, card: Card, kind: int) -> int:
        return {self.NVML_CLOCK_SM: 1980, self.NVML_CLOCK_MEM: 2619}[kind]

    def nvmlDeviceGetMemoryBusWidth(self, card: Card) -> int:
        return 5120

    def nvmlDeviceGetMigMode(self, card: Card) -> list[int]:
        return [card.parts is not None, 0]

    def nvmlDeviceGetMaxMigDeviceCount(self, card: Card) -> int:
        return 7

    def nvmlDeviceGetMigDeviceHandleByIndex(self, card: Card, index: int) -> Card:
        if index >= len(card.parts or ()):
            raise self.NVMLError("Not Found")
        return (card.parts or ())[index]
