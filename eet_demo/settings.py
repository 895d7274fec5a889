"""What the owner of this machine sets: the only reader of the environment.

Every field is a variable `EET_DEMO_<FIELD>`, e.g. `EET_DEMO_PORT=8080`; the fields that a Space sets have their own.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, AliasChoices, ByteSize, Field, PositiveInt, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from eet_demo.declared import Limits
from eet_demo.errors import RequestError
from eet_demo.paths import cache_dir

PREFIX = "EET_DEMO_"

Folder = Annotated[Path, AfterValidator(Path.expanduser)]


def _models_dir() -> Path:
    return cache_dir() / "models"


def _host(fields: dict[str, Any]) -> str:
    return "0.0.0.0" if fields["space_id"] else "127.0.0.1"  # a Space's visitors come from outside its container


class Settings(BaseSettings):
    """One typed record of every variable; `load_settings` says in words which one cannot be used.

    Args:
        space_id: SPACE_ID, as a Space sets it.
        models_dir: fetched and converted models; `models` in the cache (`paths.cache_dir`) unless set.
        host, port: where the page listens; this machine alone, in a Space everybody.
        share: also through a public gradio.live address.
        device: where the page's races run: `cuda`, `cpu`, or `auto`, which takes a GPU that can be used.
        cuda_visible_devices, cuda_device_order: CUDA_VISIBLE_DEVICES and CUDA_DEVICE_ORDER, CUDA's own: which GPUs a
            process sees, and how they are numbered.
        threads: most CPU threads a side may use; None leaves it to affinity and container limits.
        memory_limit: most bytes a race may use, e.g. `8GiB`; None leaves it to the machine.
        max: the most that a race may ask for, and that is kept of races: EET_DEMO_MAX_BATCH and so on, one variable a
            field of `Limits`, where they are described.
        hub_offline: never ask the Hugging Face Hub for anything (HF_HUB_OFFLINE says so too).
    """

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        extra="ignore",
        env_nested_delimiter="_",
        env_nested_max_split=1,  # MAX_BATCH is max.batch
    )

    space_id: str | None = Field(default=None, validation_alias="SPACE_ID")
    models_dir: Folder = Field(default_factory=_models_dir)
    host: str = Field(default_factory=_host)
    port: int = Field(default=7860, ge=1, le=65535)
    share: bool = False
    device: Literal["auto", "cpu", "cuda"] = "auto"
    cuda_visible_devices: str | None = Field(default=None, validation_alias="CUDA_VISIBLE_DEVICES")
    cuda_device_order: str | None = Field(default=None, validation_alias="CUDA_DEVICE_ORDER")
    threads: PositiveInt | None = None
    memory_limit: Annotated[ByteSize, Field(gt=0)] | None = None
    max: Limits = Field(default_factory=Limits)
    hub_offline: bool = Field(default=False, validation_alias=AliasChoices(f"{PREFIX}HUB_OFFLINE", "HF_HUB_OFFLINE"))


def load_settings() -> Settings:
    """The settings of this process.

    Raises:
        RequestError: a variable whose value cannot be used; each is named, with what is wrong.
        CacheError: the cache's variable, which `paths.cache_dir` reads.
    """
    try:
        return Settings()
    except ValidationError as error:
        faults = "; ".join(f"{_variable(fault['loc'])}: {fault['msg']}" for fault in error.errors())
        raise RequestError(f"The environment cannot be used. {faults}.") from None


def _variable(place: tuple[int | str, ...]) -> str:
    """The name in the environment: an alias is one already, a limit has two parts."""
    field = "_".join(map(str, place))
    return field if field.isupper() else PREFIX + field.upper()
