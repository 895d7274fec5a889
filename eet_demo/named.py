"""`eet_demo.Engine`: the engine for whoever names a model instead of a folder."""

from __future__ import annotations

from pathlib import Path

from eet_demo.engine import engine


class Engine(engine.Engine):
    """The engine, of a catalogue id, a Hub id, a local folder (config.json + safetensors) or a `.gguf` file.

    A model that is not on this machine is fetched or converted first, into the models folder of its owner's settings.
    Raises SourceError or RequestError where a name leads nowhere; otherwise as `eet_demo.engine.engine.Engine`.
    """

    @staticmethod
    def locate(model: str | Path) -> str | Path:
        if Path(model).is_dir():
            return model
        from eet_demo.models.resolve import resolve  # a worker, which is given a folder, pays for neither of these
        from eet_demo.settings import load_settings

        settings = load_settings()
        return resolve(str(model), settings.models_dir, hub_enabled=not settings.hub_offline)
