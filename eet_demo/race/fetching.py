"""A model on its way to this machine while the page shows how far it is."""

from __future__ import annotations

import threading
from pathlib import Path

from eet_demo.models.resolve import resolve


class Fetching:
    """Fetches a model in a thread of its own; the download itself resumes, so that nobody need wait for its end."""

    def __init__(self, model: str, models_dir: Path, hub_enabled: bool) -> None:
        self.progress = f"fetching {model}"
        self._model, self._models_dir, self._hub_enabled = model, models_dir, hub_enabled
        self._folder: Path | None = None
        self._error: BaseException | None = None
        threading.Thread(target=self._fetch, name=f"fetch {model}", daemon=True).start()

    def folder(self) -> Path | None:
        """The model's folder once it is here, None before; raises what the fetch raised."""
        if self._error is not None:
            raise self._error
        return self._folder

    def _fetch(self) -> None:
        try:
            self._folder = resolve(self._model, self._models_dir, self._hub_enabled, self._report)
        except BaseException as error:  # handed to the race's own thread
            self._error = error

    def _report(self, stage: str, done: int, total: int) -> None:
        if stage == "wait":
            holder = f"process {done}" if done else "another process"
            self.progress = f"waiting for {holder}, which fetches {self._model}"
            return
        percent = f" {100 * done // total} %" if total else ""
        self.progress = f"fetching {self._model}: {stage}{percent}"
