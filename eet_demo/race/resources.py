"""What every race of this process shares: the machine, the models, the workers that stay between races."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from eet_demo.clock import Clock
from eet_demo.declared import Limits
from eet_demo.machine import hardware
from eet_demo.machine.cpu_use import ReadCpu, read_cpu_times
from eet_demo.machine.gpu import Gpu
from eet_demo.models import catalog
from eet_demo.race.inputs import RaceModel, check_settings, open_model, prompt_ids
from eet_demo.race.residents import Residents
from eet_demo.records import Hardware, RaceSettings
from eet_demo.results.software import software_versions
from eet_demo.results.stock_dtypes import StockDtypes
from eet_demo.sides.side import SideOptions
from eet_demo.worker.handle import WorkerHandle
from eet_demo.worker.pool import WorkerPool, start_worker


class Background(Protocol):
    """Something that uses the machine between races."""

    @property
    def running(self) -> bool:
        """Whether it has not ended yet."""

    def give_way(self) -> None:
        """Stops, within about a second; returns at once."""


@dataclass
class RaceResources:
    """Built once by whoever serves races, closed at the end. Thread-safe.

    Args:
        models_dir: folder of the fetched models.
        hardware: this machine, for the record.
        threads: most CPU threads a side may use.
        available_bytes: asked before anything is loaded: memory that may be used now.
        gpu: the one that CUDA uses here.
        read_cpu: what everybody, and a race, has taken of the processors; None leaves it unknown.
        hub_enabled: models may be fetched from the Hugging Face Hub.
        catalogue_only: a race names a model of the catalogue; False takes folders, files and Hub ids too, which is for
            the owner's command line and not for visitors.
        allow_scripted: scripted sides may race (the page's tests).
        limits: the most that the owner lets a race ask for.
        start: starts a worker process.
        turn: held by the race that runs; the machine is for one race at a time.
        clock: the time that races are paced and timed by.
        stock_dtypes: how fast stock is by dtype on this machine; None asks and measures nothing.
        background: what is measured between races; a race that begins makes it give way.
        raced_ns: when the last race ended.
        pool: the workers, which stay between races.
        residents: grants memory; asked before any worker loads.
    """

    models_dir: Path
    hardware: Hardware
    threads: int
    available_bytes: Callable[[], int]
    gpu: Gpu | None = None
    read_cpu: ReadCpu | None = None
    hub_enabled: bool = True
    catalogue_only: bool = True
    allow_scripted: bool = False
    limits: Limits = field(default_factory=Limits)
    start: Callable[[SideOptions, Gpu | None], WorkerHandle] = start_worker
    turn: threading.Lock = field(default_factory=threading.Lock)
    clock: Clock = field(default_factory=Clock)
    stock_dtypes: StockDtypes | None = None
    background: Background | None = None
    raced_ns: int = 0
    pool: WorkerPool = field(init=False)
    residents: Residents = field(init=False)
    _models: dict[Path, RaceModel] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.pool = WorkerPool(lambda options: self.start(options, self.gpu))
        self.residents = Residents(self.pool, lambda device: self.available_on(device))

    @classmethod
    def of_this_machine(
        cls,
        models_dir: Path,
        threads: int | None = None,
        memory_limit_bytes: int | None = None,
        gpu: Gpu | None = None,
        hub_enabled: bool = True,
        catalogue_only: bool = True,
        allow_scripted: bool = False,
        cache_dir: Path | None = None,
        limits: Limits | None = None,
    ) -> RaceResources:
        """What the machine has, within the owner's limits (None for none; of `limits`, for the defaults).

        With `cache_dir`, how fast stock is in other dtypes is measured between races and kept there.
        """
        machine = hardware.read_hardware(threads, memory_limit_bytes, gpu)
        cores = hardware.usable_cores(threads)
        known = None
        if cache_dir is not None:
            known = StockDtypes(cache_dir / "stock-dtypes.json", machine, software_versions(), cores)
        return cls(
            models_dir=models_dir,
            hardware=machine,
            threads=cores,
            stock_dtypes=known,
            available_bytes=lambda: hardware.available_memory_bytes(memory_limit_bytes),
            gpu=gpu,
            read_cpu=read_cpu_times,
            hub_enabled=hub_enabled,
            catalogue_only=catalogue_only,
            allow_scripted=allow_scripted,
            limits=limits or Limits(),
        )

    def check(self, settings: RaceSettings, most_sides: int = 2) -> None:
        """Refuses at once what no race could do; quick while the model's tokenizer is in memory, and never fetches.

        Raises:
            RequestError: with what was given and what is possible. CheckpointError: the model's folder is broken.
        """
        check_settings(settings, self.limits, self.allow_scripted, most_sides)
        if self.catalogue_only:
            catalog.find(settings.model)
        folder = catalog.local_folder(settings.model, self.models_dir)
        if folder is not None:
            prompt_ids(settings, self.model(folder))

    def available_on(self, device: str) -> int:
        """Bytes that a race's sides may take now where they run: on the GPU for `cuda`, else on the host."""
        free_bytes = self.gpu.free_bytes if device == "cuda" and self.gpu is not None else None
        return free_bytes if free_bytes is not None else self.available_bytes()

    def model(self, folder: Path) -> RaceModel:
        """The opened model of a folder; its tokenizer is read once. Raises EetError for a folder that is no model."""
        if folder not in self._models:
            self._models[folder] = open_model(folder)
        return self._models[folder]

    def close(self) -> None:
        """Ends every worker."""
        if self.background is not None:
            self.background.give_way()
        self.pool.close()
