"""What the page offers: models (also those that cannot race here, with the reason), documents, machine, versions."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from eet_demo.declared import Limits, settings_of
from eet_demo.engine.devices import DEVICES
from eet_demo.errors import DeviceMissingError, UnsupportedError
from eet_demo.machine.doctor import Check, CheckId
from eet_demo.models import catalog
from eet_demo.models.catalog import ModelEntry
from eet_demo.models.hub import Hub
from eet_demo.records import Device, Hardware, RaceSettings, as_json
from eet_demo.sides.kinds import KINDS
from eet_demo.sides.pairing import shown
from eet_demo.text.prompts import Document
from eet_demo.ui.precision import precision_words
from eet_demo.ui.visitors import without_folders

BASELINES = {kind.name: kind.stock_words for kind in KINDS.values() if kind.stock_words}
"""Stock's variants, and each in words."""

FIRST_DTYPE: Mapping[str, str] = {"cuda": "float16"}
"""What the page computes in unless the visitor says otherwise, where that is not float32."""


@dataclass(frozen=True)
class ModelChoice:
    """One line of the model list.

    Args:
        reason: why it cannot race here; empty when it can.
        packed: it comes as a GGUF whose weights the engine can take as they are stored.
        unpacked: why not, where it cannot.
    """

    id: str
    title: str
    context_limit: int
    details: str
    reason: str = ""
    packed: bool = False
    unpacked: str = "comes as safetensors"


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
        sides: what races unless the visitor says otherwise; stock in it is the chosen variant.
        device: where both sides run.
        device_lacks: why `device` cannot run here; empty when it can.
        limits: the most that a race may ask for.
        saving: how many times fewer bytes a model's packed weights are than float32; None while that is not known.
    """

    list_models: Callable[[], tuple[ModelChoice, ...]]
    documents: Mapping[str, Document]
    hardware: Hardware
    software: Mapping[str, str]
    sides: tuple[str, ...] = ("stock", "engine")
    notice: Notice | None = None
    device: Device = "cpu"
    device_lacks: str = ""
    limits: Limits = field(default_factory=Limits)
    saving: Callable[[str], float | None] = lambda model: None

    @property
    def dtypes(self) -> tuple[str, ...]:
        """What the device computes in, the default first."""
        first = FIRST_DTYPE.get(self.device, "float32")
        return tuple(sorted(DEVICES[self.device].dtypes, key=lambda dtype: dtype != first))

    def weights(self, model_id: str) -> tuple[str, ...]:
        """How the engine can store this model's weights, the default first: as its file has them, where it can."""
        packed = any(model.packed for model in self.list_models() if model.id == model_id)
        wanted = ("packed", "dense", "q8_0") if packed else ("dense", "q8_0")
        return tuple(weights for weights in wanted if weights in DEVICES[self.device].weights)

    @property
    def default_settings(self) -> RaceSettings:
        """The race of a visitor who touches nothing."""
        model = self.default_model.id
        bounded = {name: setting for name, setting in settings_of(RaceSettings).items() if setting.limit}
        return RaceSettings(
            model,
            device=self.device,
            dtype=self.dtypes[0],
            weights=self.weights(model)[0],
            sides=self.sides,
            **{name: setting.within(self.limits) for name, setting in bounded.items()},
        )

    def check(self, settings: RaceSettings) -> None:
        """What this machine or the model cannot serve, said before anything is queued.

        Raises:
            DeviceMissingError: the owner's device cannot run here. UnsupportedError: a dtype or weights there are not.
        """
        if self.device_lacks:
            raise DeviceMissingError(f"EET_DEMO_DEVICE is {self.device}, which cannot run here. {self.device_lacks}")
        if settings.dtype not in self.dtypes:
            raise UnsupportedError(
                f"device '{self.device}' has no dtype '{settings.dtype}'; it has {', '.join(self.dtypes)}"
            )
        choices = self.weights(settings.model)
        if settings.weights not in choices:
            unpacked = [model.unpacked for model in self.list_models() if model.id == settings.model]
            why = f" {''.join(unpacked)} and has no packed weights" if settings.weights == "packed" else ""
            raise UnsupportedError(
                f"{settings.model}{why or f' cannot be stored as {settings.weights!r}'}; there are {', '.join(choices)}"
            )

    def precision(self, settings: Mapping[str, Any]) -> str:
        """Whether both sides compute with the same numbers, and what it costs where they do not, in a sentence."""
        saving = self.saving(str(settings["model"])) if settings["weights"] == "packed" else None
        return precision_words(settings, saving)

    @property
    def default_model(self) -> ModelChoice:
        """The first model that can race, else the first."""
        models = self.list_models()
        return next((model for model in models if not model.reason), models[0])

    def as_idle(self) -> dict[str, Any]:
        """The stage's first value."""
        idle: dict[str, Any] = {"hardware": as_json(self.hardware), "software": dict(self.software)}
        idle |= self.planned(as_json(self.default_settings))
        return {"idle": idle | ({"notice": as_json(self.notice)} if self.notice is not None else {})}

    def planned(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """What the panes say of a race that has not begun."""
        kinds = as_json(shown(settings["sides"]))
        return {"planned": dict(settings), "precision": self.precision(settings), "kinds": kinds}


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
    reason = without_folders(availability.reason) if availability.state == "unavailable" else ""
    unpacked = catalog.why_not_packed(entry, models_dir) or ""
    return ModelChoice(entry.id, entry.title, entry.context_limit, details, reason, not unpacked, unpacked)


def _memory(entry: ModelEntry) -> str:
    """What the engine's weights and KV cache need for one short document, per precision."""
    context = min(1024, entry.context_limit)
    float32, q8_0 = (catalog.memory_bytes(entry, "float32", weights, context) for weights in ("dense", "q8_0"))
    return f"{float32 / 2**30:.1f} GiB in float32 and {q8_0 / 2**30:.1f} GiB in q8_0 for {context:,} tokens"


def choose_device(wanted: str, checks: Iterable[Check]) -> tuple[Device, str]:
    """(device, why it cannot run here): the owner's, or of `auto` the GPU where it can be used, else the processor."""
    cuda = next(check for check in checks if check.id is CheckId.DEVICE_CUDA)
    if cuda.state == "yes":
        return ("cpu" if wanted == "cpu" else "cuda"), ""
    return ("cuda", f"{cuda.found}. {cuda.remedy}") if wanted == "cuda" else ("cpu", "")


def notice_of(checks: Iterable[Check]) -> Notice | None:
    """The first thing that keeps the engine or everything from running here, with its remedy.

    A model that is not here yet is no obstacle: the race fetches it.
    """
    missing = [check for check in checks if check.state == "no" and check.id is not CheckId.MODEL]
    if not missing:
        return None
    first = missing[0]
    return Notice(f"{first.name}: {first.found}. It is needed for {first.purpose}.", first.remedy)
