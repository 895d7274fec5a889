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
QUIET_NS = 5_000_000_000
LOOKS_EVERY_S = 0.05


def measure_between_races(settings: RaceSettings, model: RaceModel | None, resources: RaceResources) -> None:
    """After a race with stock: whether stock is faster in another dtype, once a model, while nobody races."""
    known = resources.stock_dtypes
    if known is None or model is None or not concerns(settings):
        return
    idle = resources.background is None or not resources.background.running
    if idle and known.rates(settings.model) is None:
        measurement = StockDtypesMeasurement(resources, known, settings.model, model.path)
        resources.background = measurement
        measurement.start()


class StockDtypesMeasurement:
    """Measures stock in each dtype once QUIET_NS have passed without a race.

    Given up when a race wants the machine: that race's end begins anew, until all is measured.
    """

    def __init__(self, resources: RaceResources, known: StockDtypes, model: str, folder: Path) -> None:
        self._resources, self._known, self._model, self._folder = resources, known, model, folder
        self._given_up = threading.Event()
        self._bench: Bench | None = None
        self._thread = threading.Thread(target=self.run, name="stock dtypes", daemon=True)

    @property
    def running(self) -> bool:
        """Whether its figures are still to come; not so once it was given up, however long it takes to end."""
        return self._thread.is_alive() and not self._given_up.is_set()

    def start(self) -> None:
        """Measures in a thread of its own."""
        self._thread.start()

    def give_way(self) -> None:
        """Any thread: stops within a step of stock's, a second at most."""
        self._given_up.set()
        bench = self._bench
        if bench is not None:
            bench.stop()

    def join(self, timeout_s: float) -> None:
        """Waits for the end (of tests and of the server)."""
        self._thread.join(timeout_s)

    def run(self) -> None:
        """Measures now, in the caller's thread."""
        rates: dict[str, float] = {}
        for dtype in DTYPES:
            if not self._quiet():
                return
            try:
                rates[dtype] = self._measure(dtype)
            except EetError as error:
                if not self._given_up.is_set():
                    LOGGER.info("stock in %s is not measured here: %s", dtype, error)
                return
        self._known.keep(self._model, rates)

    def _quiet(self) -> bool:
        """Waits until nobody has raced for QUIET_NS; False when given up."""
        clock = self._resources.clock
        while not self._given_up.is_set() and clock.now_ns() < self._resources.raced_ns + QUIET_NS:
            clock.sleep(LOOKS_EVERY_S)
        return not self._given_up.is_set()

    def _measure(self, dtype: str) -> float:
        """Decode tokens/s. Raises EetError when the run gave way, failed or does not fit."""
        self._bench = Bench(settings_of(self._model, dtype), 1, self._folder, self._resources, keep_workers=True)
        if self._given_up.is_set():
            self._bench.stop()
        rate: float = self._bench.run(lambda line: None)["runs"][0]["decode_tok_s"]
        return rate
