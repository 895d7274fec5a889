"""NVIDIA's management library (NVML), asked in this one place, about the device that is CUDA's number 0 in a process.

NVML numbers cards by their place on the PCI bus and knows no CUDA_VISIBLE_DEVICES: its number 0 may be another card.
What it does not tell (no driver, part of a card, a virtual one, no permission) is None, an absent figure, never 0.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from types import ModuleType
from typing import Any

PCI_ORDER = "PCI_BUS_ID"
"""The value of CUDA_DEVICE_ORDER that numbers cards as NVML does; by default CUDA takes the fastest one for its 0."""


@dataclass(frozen=True)
class Gpu:
    """One card, or the part of one (MIG) that CUDA uses; `find_gpu` finds it. Safe to ask from any thread."""

    _nvml: ModuleType
    _device: Any

    @property
    def name(self) -> str | None:
        return self._text("nvmlDeviceGetName")

    @property
    def uuid(self) -> str | None:
        """`GPU-...`, or `MIG-...` of a part."""
        return self._text("nvmlDeviceGetUUID")

    @property
    def driver(self) -> str | None:
        """The version of the driver."""
        try:
            return str(self._nvml.nvmlSystemGetDriverVersion())
        except self._nvml.NVMLError:
            return None

    @property
    def capability(self) -> int | None:
        """Compute capability, 90 for sm_90."""
        found = self._ask("nvmlDeviceGetCudaComputeCapability")
        return 10 * int(found[0]) + int(found[1]) if found is not None else None

    @property
    def memory_bytes(self) -> int | None:
        """All memory of the device."""
        return self._memory("total")

    @property
    def free_bytes(self) -> int | None:
        return self._memory("free")

    @property
    def used_bytes(self) -> int | None:
        """What all processes together have taken of the device."""
        return self._memory("used")

    def process_bytes(self, pid: int) -> int | None:
        """Bytes of one process; None for one that is not listed, or, as inside some containers, listed with 0."""
        processes = self._ask("nvmlDeviceGetComputeRunningProcesses") or []
        return sum(process.usedGpuMemory or 0 for process in processes if process.pid == pid) or None

    @property
    def max_memory_clock_mhz(self) -> int | None:
        return self._number("nvmlDeviceGetMaxClockInfo", self._nvml.NVML_CLOCK_MEM)

    @property
    def memory_bus_bits(self) -> int | None:
        return self._number("nvmlDeviceGetMemoryBusWidth")

    def _memory(self, kind: str) -> int | None:
        found = self._ask("nvmlDeviceGetMemoryInfo")
        return int(getattr(found, kind)) if found is not None else None

    def _text(self, function: str) -> str | None:
        found = self._ask(function)
        return str(found) if found is not None else None

    def _number(self, function: str, *arguments: Any) -> int | None:
        found = self._ask(function, *arguments)
        return int(found) if found is not None else None

    def _ask(self, function: str, *arguments: Any) -> Any:
        return _ask(self._nvml, function, self._device, *arguments)


def find_gpu(visible: str | None = None, order: str | None = None) -> Gpu | None:
    """The device that is CUDA's number 0 in a process with these settings; None where there is none to be asked.

    Args:
        visible: CUDA_VISIBLE_DEVICES: indices, or UUIDs of cards or of MIG devices, which may be cut short; None when
            it is not set. Like CUDA, this sees nothing where the first entry names nothing.
        order: CUDA_DEVICE_ORDER, which says what indices count.
    """
    try:
        nvml = importlib.import_module("pynvml")
    except ImportError:  # the engine's own host needs no such package
        return None
    try:
        nvml.nvmlInit()
        count = int(nvml.nvmlDeviceGetCount())
    except nvml.NVMLError:
        return None
    cards = [card for index in range(count) if (card := _ask(nvml, "nvmlDeviceGetHandleByIndex", index)) is not None]
    device = _first_visible(nvml, cards, visible, order)
    return Gpu(nvml, device) if device is not None else None


def _first_visible(nvml: ModuleType, cards: list[Any], visible: str | None, order: str | None) -> Any:
    first = "0" if visible is None else visible.partition(",")[0].strip()
    if first.startswith("MIG-"):
        parts = [part for card in cards for part in _parts(nvml, card)]
        return next((part for part in parts if _named(nvml, part, first)), None)
    if first.startswith("GPU-"):
        return next((_first_part(nvml, card) for card in cards if _named(nvml, card, first)), None)
    numbered = cards if order == PCI_ORDER else _fastest_first(nvml, cards)
    if first.isdecimal() and int(first) < len(numbered):
        return _first_part(nvml, numbered[int(first)])
    return None


def _fastest_first(nvml: ModuleType, cards: list[Any]) -> list[Any]:
    """CUDA's default order: the card with the most cores times clock, then the others as they are."""

    def speed(card: Any) -> int:
        clock = _ask(nvml, "nvmlDeviceGetMaxClockInfo", card, nvml.NVML_CLOCK_SM)
        return int(_ask(nvml, "nvmlDeviceGetNumGpuCores", card) or 0) * int(clock or 0)

    fastest = max(cards, key=speed, default=None)
    return sorted(cards, key=lambda card: card is not fastest)


def _named(nvml: ModuleType, device: Any, start: str) -> bool:
    return str(_ask(nvml, "nvmlDeviceGetUUID", device)).startswith(start)


def _first_part(nvml: ModuleType, card: Any) -> Any:
    """The card, or the first MIG device of one that is divided: CUDA uses no more than that. None without any."""
    mode = _ask(nvml, "nvmlDeviceGetMigMode", card)
    divided = mode is not None and mode[0] == nvml.NVML_DEVICE_MIG_ENABLE
    return next(iter(_parts(nvml, card)), None) if divided else card


def _parts(nvml: ModuleType, card: Any) -> list[Any]:
    most = int(_ask(nvml, "nvmlDeviceGetMaxMigDeviceCount", card) or 0)
    found = [_ask(nvml, "nvmlDeviceGetMigDeviceHandleByIndex", card, index) for index in range(most)]
    return [part for part in found if part is not None]


def _ask(nvml: ModuleType, function: str, *arguments: Any) -> Any:
    """What NVML answers; None where it does not tell."""
    try:
        return getattr(nvml, function)(*arguments)
    except nvml.NVMLError:
        return None
