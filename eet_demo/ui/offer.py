"""What the page offers: models (also those that cannot race here, with the reason), documents, machine, versions."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eet_demo import catalog
from eet_demo.catalog import ModelEntry
from eet_demo.doctor import Check
from eet_demo.hub import Hub
from eet_demo.prompts import Document
from eet_demo.records import Hardware, as_json

BASELINES: Mapping[str, str] = {
    "stock": "stock: library defaults",
    "stock-eager": "stock-eager: eager attention",
    "stock-static": "stock-static: static cache",
}


@dataclass(frozen=True)
class ModelChoice:
    """One line of the model list. `reason` says why it cannot race here; empty when it can."""

    id: str
    title: str
    context_limit: int
    details: str
    reason: str = ""


@dataclass(frozen=True)
class Notice:
    """Something the visitor must know before racing: no compiler, a package that is missing."""

    message: str
    remedy: str = ""


@dataclass(frozen=True)
class Offer:
    """Everything the controls and the strip are built from.

    Args:
        list_models: asked at every page load: models come while the page stands, and so does the Hub.
        sides: what races unless the visitor says otherwise; `stock` in it takes the chosen variant.
    """

    list_models: Callable[[], tuple[ModelChoice, ...]]
    documents: Mapping[str, Document]
    hardware: Hardware
    software: Mapping[str, str]
    sides: tuple[str, ...] = ("stock", "engine")
    notice: Notice | None = None

    @property
    def default_model(self) -> ModelChoice:
        """The first model that can race, else the first."""
        models = self.list_models()
        return next((model for model in models if not model.reason), models[0])

    def as_idle(self) -> dict[str, Any]:
        """The stage's first value."""
        idle: dict[str, Any] = {"hardware": as_json(self.hardware), "software": dict(self.software)}
        return {"idle": idle | ({"notice": as_json(self.notice)} if self.notice is not None else {})}


def catalogue_choices(models_dir: Path, hub: Hub) -> tuple[ModelChoice, ...]:
    """The catalogue as it stands now; asks nobody and does not wait."""
    hub.start()
    return tuple(_choice(entry, models_dir, hub) for entry in catalog.load_catalog().values())


def _choice(entry: ModelEntry, models_dir: Path, hub: Hub) -> ModelChoice:
    availability = catalog.availability(entry, models_dir, hub)
    size = f"{entry.parameters / 1e6:.0f}M" if entry.parameters < 1e9 else f"{entry.parameters / 1e9:.1f}B"
    details = f"{size} parameters, up to {entry.context_limit:,} tokens, {entry.licence}; {_memory(entry)}"
    if availability.state == "fetchable":
        details += f"; {availability.reason} first"
    reason = availability.reason if availability.state == "unavailable" else ""
    return ModelChoice(entry.id, entry.title, entry.context_limit, details, reason)


def _memory(entry: ModelEntry) -> str:
    """What the engine's weights and KV cache need for one short document, per precision."""
    context = min(1024, entry.context_limit)
    float32, q8_0 = (catalog.memory_bytes(entry, "float32", weights, context) for weights in ("dense", "q8_0"))
    return f"{float32 / 1e9:.1f} GB in float32 and {q8_0 / 1e9:.1f} GB in q8_0 for {context:,} tokens"


def notice_of(checks: Iterable[Check]) -> Notice | None:
    """The first thing that keeps the engine or everything from running here, with its remedy.

    A model that is not here yet is no obstacle: the race fetches it.
    """
    missing = [check for check in checks if check.state == "no" and check.purpose != "the default race"]
    if not missing:
        return None
    first = missing[0]
    return Notice(f"{first.name}: {first.found}. It is needed for {first.purpose}.", first.remedy)
