"""From a race's settings to what each lane is built of; shared by the page's race and by bench."""

from __future__ import annotations

from eet_demo.race.inputs import RaceModel
from eet_demo.records import RaceSettings
from eet_demo.results.record import RowTexts, SideRecord
from eet_demo.sides.names import parse_side
from eet_demo.sides.side import RunRequest, SideOptions


def thread_notes(settings: RaceSettings, threads: int) -> list[str]:
    """What a request for more threads than can run at once comes to, in words."""
    if settings.threads is None or settings.threads <= threads:
        return []
    return [f"{settings.threads} threads were asked for; {threads} can run at once here, and every side uses those"]


def side_options(name: str, settings: RaceSettings, model: RaceModel, threads: int) -> SideOptions:
    """What the side called `name` is built from: exactly as large as this race needs."""
    scripted = parse_side(name).kind.scripted
    return SideOptions(
        side=name,
        model_path="" if scripted else str(model.path),
        device=settings.device,
        dtype=settings.dtype,
        weights=settings.weights,
        threads=min(threads, settings.threads or threads),
        max_batch=settings.batch,
        max_context=settings.context + settings.new_tokens,
    )


def new_record(name: str, request: RunRequest, model: RaceModel) -> SideRecord:
    """An empty record for one run of a side."""
    texts = RowTexts(
        len(request.prompt_ids), request.new_tokens, model.new_decoder, model.end_ids, request.stop_token_ids
    )
    return SideRecord(name, texts)
