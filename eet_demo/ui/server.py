"""The demo as a server: what this machine offers, the page, and workers that warm up once it stands."""

from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from eet_demo.errors import DeviceMissingError
from eet_demo.machine.doctor import examine
from eet_demo.machine.gpu import find_gpu
from eet_demo.models import catalog
from eet_demo.models.hub import Hub
from eet_demo.paths import cache_dir
from eet_demo.race.race import Race
from eet_demo.race.resources import RaceResources
from eet_demo.race.session import preload
from eet_demo.results.software import software_versions
from eet_demo.results.trace import load_trace
from eet_demo.settings import Settings
from eet_demo.text.prompts import load_documents
from eet_demo.ui.launch import launch, require_free_port
from eet_demo.ui.offer import Notice, Offer, catalogue_choices, choose_device, notice_of
from eet_demo.ui.page import build_page, build_replay
from eet_demo.ui.precision import planned_saving

NICENESS = 10


def serve(settings: Settings, host: str, port: int, share: bool = False) -> None:
    """Serves the demo until Ctrl-C; its workers end with it.

    Raises:
        PortInUseError: the port is taken.
    """
    require_free_port(host, port)  # said at once, not after everything is built
    resources = RaceResources.of_this_machine(
        settings.models_dir,
        settings.threads,
        settings.memory_limit,
        find_gpu(settings.cuda_visible_devices, settings.cuda_device_order),
        not settings.hub_offline,
        cache_dir=cache_dir(),
    )
    os.nice(NICENESS)  # after the pool: its workers keep their priority, and drawing never slows decoding
    offer = build_offer(settings, resources)
    demo = build_page(offer, resources.check, lambda asked: Race(asked, resources))
    try:
        launch(demo, host, port, share, lambda: warm(offer, resources))
    finally:
        resources.close()


def serve_replay(path: Path, host: str, port: int) -> None:
    """Serves a page that plays the trace at `path` until Ctrl-C.

    Raises:
        TraceError: the file is no trace. PortInUseError: the port is taken.
    """
    launch(build_replay(load_trace(path)), host, port)


def build_offer(settings: Settings, resources: RaceResources) -> Offer:
    """What this machine offers."""
    hub = Hub(enabled=not settings.hub_offline)
    hub.start()
    with ThreadPoolExecutor(1) as examiner:
        checks = examiner.submit(examine, settings)
        documents, software = load_documents(), software_versions()
    device, lacks = choose_device(settings.device, checks.result())
    notice = notice_of(checks.result())
    if lacks:
        notice = Notice(f"EET_DEMO_DEVICE is {device}, which cannot run here. {lacks}", DeviceMissingError.remedy)
    return Offer(
        list_models=lambda: catalogue_choices(settings.models_dir, hub),
        documents=documents,
        limits=settings.max,
        hardware=resources.hardware,
        software=software,
        notice=notice,
        device=device,
        device_lacks=lacks,
        saving=lambda model: planned_saving(model, settings.models_dir),
    )


def warm(offer: Offer, resources: RaceResources) -> None:
    """Begins to load the workers of the default race in the background, so that the first race need not wait."""
    threading.Thread(target=_warm, args=(offer, resources), name="warm", daemon=True).start()


def _warm(offer: Offer, resources: RaceResources) -> None:
    settings = offer.default_settings
    folder = catalog.local_folder(settings.model, resources.models_dir)
    if folder is None or offer.device_lacks:
        return  # the first race fetches it, and shows how far it is
    preload(settings, resources.model(folder), resources)
