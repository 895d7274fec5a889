"""A model's name as a folder on this machine: of the catalogue, a folder, a `.gguf` file or a Hub id."""

from __future__ import annotations

from pathlib import Path

from eet_demo.engine.shapes import config_of
from eet_demo.errors import CheckpointError, RequestError
from eet_demo.models import catalog
from eet_demo.models.fetch import Progress, convert_file, fetch, fetch_repository, ignore_progress
from eet_demo.models.gguf.header import is_gguf


def resolve(model: str, models_dir: Path, hub_enabled: bool = True, progress: Progress = ignore_progress) -> Path:
    """The Hugging Face folder of `model`, fetched or converted first where that has not been done yet.

    Args:
        model: a catalogue id, a local folder, a GGUF whatever its name, or a Hub id (`owner/name`,
            `owner/name@revision`), tried in this order. A fetched folder that was damaged since is fetched again.
            `shape:NAME` comes back as it is.
        progress: as in `fetch.fetch`.

    Raises:
        RequestError: it is none of these. SourceError: it cannot be fetched.
        CheckpointError, UnsupportedError: it cannot be used.
    """
    if config_of(model) is not None:
        return Path(model)
    if model in catalog.load_catalog():
        return fetch(model, models_dir, progress, hub_enabled)
    path = Path(model).expanduser()
    if path.suffix == ".gguf" or is_gguf(path):
        return convert_file(path, models_dir, progress)
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise CheckpointError(f"{path} has no config.json; a model folder holds config.json and *.safetensors.")
        return path
    if catalog.HUB_ID.fullmatch(model) and not path.exists():
        return fetch_repository(model, models_dir, progress, hub_enabled)
    raise RequestError(
        f"'{model}' is no model of the catalogue ({', '.join(catalog.load_catalog())}), no folder, no .gguf file and "
        "no Hub id of the form owner/name."
    )
