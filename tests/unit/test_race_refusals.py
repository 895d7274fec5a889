"""What no race could do is refused before anything starts, with what was given and what is possible."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from eet_demo.errors import MemoryPlanError, RequestError, SourceError
from eet_demo.race.resources import RaceResources
from eet_demo.worker.handle import WorkerHandle
from tests.real_races import Started, race_settings, run_race


@pytest.mark.parametrize(
    ("changed", "error", "words"),
    [
        ({"context": 8100, "new_tokens": 100}, RequestError, "limit is 8192"),
        ({"new_tokens": 0}, RequestError, "new_tokens is 0"),
        ({"batch": 10**9}, RequestError, "EET_DEMO_MAX_BATCH"),
        ({"batch": 8, "context": 32_000}, RequestError, "EET_DEMO_MAX_PROMPT_IDS"),
        ({"batch": -1}, RequestError, "batch is -1"),
        ({"prompt": "text:   "}, RequestError, "empty"),
        ({"prompt": "text:" + "word " * 500}, RequestError, "Shorten"),
        ({"prompt": "no such document"}, RequestError, "No document"),
        ({"sides": ("stock", "engine", "engine")}, RequestError, "1 to 2"),
        ({"sides": ("magic",)}, RequestError, "stock-eager"),
        ({"sides": ("stock:fast=on",)}, RequestError, "no options"),
        ({"schedule": "at random"}, RequestError, "in_turn, together"),
        ({"temperature": float("nan")}, RequestError, "temperature"),
        ({"top_p": 0.0}, RequestError, "top_p"),
        ({"seed": -1}, RequestError, "seed"),
    ],
)
def test_race_refuses_a_bad_request_before_anything_starts(
    race_resources: RaceResources, started: Started, changed: dict[str, Any], error: type[Exception], words: str
) -> None:
    sides = changed.pop("sides", ("scripted",))
    settings = race_settings(*sides, **changed)
    with pytest.raises(error, match=words):
        race_resources.check(settings)
    with pytest.raises(error, match=words):
        run_race(race_resources, settings)
    assert started() == []


@pytest.mark.parametrize("model", ["no-such-model", "/nowhere"])
def test_race_of_a_model_that_is_not_to_be_had_is_refused(
    race_resources: RaceResources, started: Started, model: str
) -> None:
    with pytest.raises(RequestError, match=model):
        run_race(race_resources, race_settings("scripted", model=model))
    assert started() == []
    assert race_resources.turn.acquire(blocking=False)


def test_race_of_visitors_names_models_of_the_catalogue_only(race_resources: RaceResources, model_dir: Path) -> None:
    race_resources.catalogue_only = True
    race_resources.check(race_settings("scripted"))
    with pytest.raises(RequestError, match="catalogue"):
        race_resources.check(race_settings("scripted", model=str(model_dir)))
    race_resources.allow_scripted = False
    with pytest.raises(RequestError, match="tests only"):
        race_resources.check(race_settings("scripted"))


def test_race_on_a_model_that_cannot_be_fetched_says_so(race_resources: RaceResources, tmp_path: Path) -> None:
    race_resources.models_dir = tmp_path
    race_resources.hub_enabled = False
    with pytest.raises(SourceError):
        run_race(race_resources, race_settings("scripted", model="gpt2"))
    assert race_resources.turn.acquire(blocking=False)


def test_race_refuses_a_model_that_does_not_fit_with_the_figures(
    race_resources: RaceResources, monkeypatch: pytest.MonkeyPatch
) -> None:
    race_resources.available_bytes = lambda: 300_000_000
    monkeypatch.setattr(WorkerHandle, "held_bytes", 0)
    with pytest.raises(MemoryPlanError, match=r"stock needs [56]\d\d,\d{3},\d{3} bytes.*300,000,000"):
        run_race(race_resources, race_settings("stock"))
