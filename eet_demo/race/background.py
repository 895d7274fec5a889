"""What is measured while nobody races; a race that begins makes it give way at once."""

from __future__ import annotations

import logging
import threading
from pathlib import Path

from eet_demo.errors import EetError
from eet_demo.race.bench import Bench
from eet_demo.race.inputs import RaceModel
from eet_demo.race.resources import RaceResources
from eet_demo.records import RaceSettings
from eet_demo.results.stock_dtypes import DTYPES, StockDtypes, concerns, settings_of

LOGGER = logging.getLogger(__name__)
QUIET_S = 5.0


def measure_between_races(settings: RaceSettings, model: RaceModel | None, resources: RaceResources) -> None:
    """After a race with stock: whether stock is faster in another dtype, once a model, while nobody races."""
    known = resources.stock_dtypes
    if known is None or model is None or not concerns(settings):
        return
    idle = resources.background is None or not resources.background.running
    if idle and known.rates(settings.model) is None:
        resources.background = StockDtypesMeasurement(resources, known, settings.model, model.path)


class StockDtypesMeasurement:
    """Measures stock in each dtype, in a thread of its own, after QUIET_S without a race.

    Given up when a race wants the machine: the next race's end begins anew, until all is measured.
    """

    def __init__(self, resources: RaceResources, known: StockDtypes, model: str, folder: Path) -> None:
        self._resources, self._known, self._model, self._folder = resources, known, model, folder
        self._given_up = threading.Event()
        self._bench: Bench | None = None
        self._thread = threading.Thread(target=self._run, name="stock dtypes", daemon=True)
        self._thread.start()

    @property
    def running(self) -> bool:
        return self._thread.is_alive()

    def give_way(self) -> None:
        """Any thread: stops within a step of stock's, a second at most."""
        self._given_up.set()
        bench = self._bench
        if bench is not None:
            bench.stop()

    def join(self, timeout_s: float) -> None:
        """Waits for the end (of tests and of the server)."""
        self._thread.join(timeout_s)

    def _run(self) -> None:
        rates: dict[str, float] = {}
        for dtype in DTYPES:
            if self._given_up.wait(QUIET_S if not rates else 0):
                return
            try:
                rates[dtype] = self._measure(dtype)
            except EetError as error:
                if not self._given_up.is_set():
                    LOGGER.info("stock in %s is not measured here: %s", dtype, error)
                return
        self._known.keep(self._model, rates)

    def _measure(self, dtype: str) -> float:
        """Decode tokens/s. Raises EetError when the run gave way, failed or does not fit."""
        self._bench = Bench(settings_of(self._model, dtype), 1, self._folder, self._resources, keep_workers=True)
        if self._given_up.is_set():
            self._bench.stop()
        rate: float = self._bench.run(lambda line: None)["runs"][0]["decode_tok_s"]
        return rate
