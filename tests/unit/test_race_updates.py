"""What a race says beside its tokens: late notes, a download that is stopped, memory that does not suffice."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from eet_demo.errors import MemoryPlanError
from eet_demo.race import race as runner
from eet_demo.race.race import Race
from eet_demo.race.resources import RaceResources
from eet_demo.race.session import Session
from eet_demo.records import RaceSettings
from eet_demo.worker.handle import WorkerHandle

SCRIPTED = ("scripted:rate=400,waits=off", "scripted:rate=800,waits=off")
LATE = "each is loaded for its turn"


def race_of(resources: RaceResources, **changed: Any) -> Race:
    fields: dict[str, Any] = {"context": 64, "new_tokens": 4, "prompt": "bread", "sides": SCRIPTED, **changed}
    return Race(RaceSettings(**{"model": "smollm2-135m", **fields}), resources)


def updates_of(race: Race) -> Iterator[dict[str, Any]]:
    for batch in race.run():
        yield from batch


def test_note_that_comes_late_reaches_the_page_before_the_first_token(
    race_resources: RaceResources, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Session, "decide", lambda session: session.notes.append(LATE))
    updates = list(updates_of(race_of(race_resources)))
    kinds = [update["kind"] for update in updates]
    assert LATE not in updates[kinds.index("race")]["notes"]
    notes = updates[kinds.index("notes")]["notes"]
    assert LATE in notes
    assert kinds.index("race") < kinds.index("notes") < kinds.index("tokens")
    assert kinds.count("notes") == 1, "said once, not at every tick"
    assert updates[-1]["trace"]["notes"][: len(notes)] == notes


def test_stop_during_a_download_ends_quietly(
    race_resources: RaceResources, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetched = threading.Event()

    def fetch(model: str, models_dir: Path, hub_enabled: bool, report: Any) -> Path:
        report("downloading", 1, 4)
        fetched.wait(300)
        return tmp_path

    ticks = 0

    monkeypatch.setattr(runner, "resolve", fetch)
    race_resources.models_dir = tmp_path
    race = race_of(race_resources, model="gpt2")
    said = []
    for batch in race.run():
        said += batch
        ticks += any("downloading 25 %" in update["detail"] for update in said)
        if ticks == 5:
            race.stop()
    fetched.set()
    assert {update["kind"] for update in said} == {"state"}, "no error, and no result of nothing"
    assert len(set(map(str, said))) == len(said), "the same words are not said at every tick"
    assert [update["state"] for update in said[-2:]] == ["stopped", "stopped"]
    assert "fetching gpt2: downloading 25 %, in the background" in said[-1]["detail"]
    assert race_resources.turn.acquire(blocking=False)
    race_resources.turn.release()


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_a_plan_beyond_the_memory_is_refused_with_both_figures(
    race_resources: RaceResources, monkeypatch: pytest.MonkeyPatch, device: str
) -> None:
    asked: list[str] = []

    def available(where: str) -> int:
        asked.append(where)
        return 20_000_000

    monkeypatch.setattr(race_resources, "available_on", available)
    monkeypatch.setattr(WorkerHandle, "held_bytes", 0)
    race = race_of(race_resources, device=device, weights="packed", sides=("engine",))
    with pytest.raises(
        MemoryPlanError, match=r"engine needs \d{2,3},\d{3},\d{3} bytes .*20,000,000 .*are available"
    ) as caught:
        list(updates_of(race))
    assert asked == [device]
    assert "Choose a smaller model" in caught.value.remedy
