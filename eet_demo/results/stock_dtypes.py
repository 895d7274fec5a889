"""Is stock faster in another dtype on this machine? Measured once a model, while nobody races, and kept on disk.

Both sides of a race compute in the same dtype; where stock alone would gain from bfloat16, the page says so beside the
ratio, with these figures.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eet_demo.files import write_atomically
from eet_demo.records import Hardware, RaceSettings

LOGGER = logging.getLogger(__name__)

DTYPES = ("float32", "bfloat16")
SIDE = "stock"
CONTEXT, NEW_TOKENS = 128, 24
WORTH_SAYING = 1.05


@dataclass(frozen=True)
class StockDtypes:
    """The figures kept in one file, by machine, versions and model.

    Args:
        path: JSON, written when something has been measured.
        hardware, software: what a figure holds for; another processor or torch measures anew.
        threads: CPU threads of the measurement.
    """

    path: Path
    hardware: Hardware
    software: Mapping[str, str]
    threads: int

    def rates(self, model: str) -> Mapping[str, float] | None:
        """Decode tokens/s of stock by dtype, batch 1; None when this machine has not measured `model` yet."""
        found: Mapping[str, float] | None = self._read().get(self._key(model))
        return found

    def keep(self, model: str, rates: Mapping[str, float]) -> None:
        """Writes the figures of a model. A folder that cannot be written loses them, which costs a measurement."""
        kept = self._read() | {self._key(model): dict(rates)}
        try:
            write_atomically(self.path, json.dumps(kept, indent=1, sort_keys=True) + "\n")
        except OSError as error:
            LOGGER.warning("cannot keep how fast stock is by dtype: %s", error)

    def note(self, settings: RaceSettings) -> str | None:
        """What the page says beside a ratio; None when nothing is known or stock is not faster in another dtype."""
        rates = self.rates(settings.model) if concerns(settings) else None
        own = rates.get(settings.dtype) if rates is not None else None
        if rates is None or own is None:
            return None
        best = max(rates, key=lambda dtype: rates[dtype])
        if rates[best] < WORTH_SAYING * own:
            return None
        return (
            f"stock alone would be {rates[best] / own:.2f} times as fast in {best} on this machine "
            f"({rates[best]:.1f} against {own:.1f} tokens/s, decode, context {CONTEXT}, batch 1); "
            f"here both sides compute in {settings.dtype}"
        )

    def _key(self, model: str) -> str:
        versions = ", ".join(f"{name} {self.software.get(name)}" for name in ("torch", "transformers"))
        return f"{model}, {self.hardware.cpu}, {self.threads} threads, {versions}"

    def _read(self) -> dict[str, Any]:
        try:
            kept: dict[str, Any] = json.loads(self.path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return kept


def concerns(settings: RaceSettings) -> bool:
    """Whether what is measured here races there: stock as the library has it, on the processor."""
    return settings.device == "cpu" and SIDE in settings.sides


def settings_of(model: str, dtype: str) -> RaceSettings:
    """One measurement: stock alone, in `dtype`."""
    return RaceSettings(model, dtype=dtype, context=CONTEXT, new_tokens=NEW_TOKENS, sides=(SIDE,))
