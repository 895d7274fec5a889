"""Whether stock is faster in another dtype: kept by machine, said only when true, measured only while nobody races."""

from __future__ import annotations

import dataclasses
import json
import time
from pathlib import Path
from typing import Any

import pytest

from eet_demo.race import background
from eet_demo.race.background import StockDtypesMeasurement
from eet_demo.race.race import Race
from eet_demo.race.resources import RaceResources
from eet_demo.records import Hardware, RaceSettings
from eet_demo.results.stock_dtypes import StockDtypes
from eet_demo.sides.side import SideOptions

FOLDER_SETTINGS = RaceSettings("smollm2-135m", context=64, new_tokens=6)


@pytest.fixture
def known(tmp_path: Path) -> StockDtypes:
    versions = {"torch": "2.13.0", "transformers": "5.23.0"}
    return StockDtypes(tmp_path / "cache" / "stock-dtypes.json", Hardware("Some CPU", 2, 2**30), versions, 2)


def test_note_names_a_faster_dtype_with_its_figures(known: StockDtypes) -> None:
    assert known.note(FOLDER_SETTINGS) is None, "nothing is measured yet"
    known.keep("smollm2-135m", {"float32": 20.0, "bfloat16": 31.0})
    note = known.note(FOLDER_SETTINGS)
    assert note is not None
    assert "1.55 times as fast in bfloat16" in note
    assert "31.0 against 20.0 tokens/s" in note


@pytest.mark.parametrize(
    ("rates", "changed"),
    [
        ({"float32": 20.0, "bfloat16": 12.0}, {}),
        ({"float32": 20.0, "bfloat16": 20.5}, {}),
        ({"float32": 20.0, "bfloat16": 31.0}, {"dtype": "bfloat16"}),
        ({"float32": 20.0, "bfloat16": 31.0}, {"dtype": "float16"}),
        ({"float32": 20.0, "bfloat16": 31.0}, {"device": "cuda"}),
        ({"float32": 20.0, "bfloat16": 31.0}, {"model": "gpt2"}),
    ],
)
def test_note_is_silent_when_stock_gains_nothing(known: StockDtypes, rates: dict[str, float], changed: Any) -> None:
    known.keep("smollm2-135m", rates)
    assert known.note(dataclasses.replace(FOLDER_SETTINGS, **changed)) is None


def test_figures_hold_for_this_machine_and_these_versions_only(known: StockDtypes) -> None:
    known.keep("smollm2-135m", {"float32": 1.0, "bfloat16": 2.0})
    known.keep("gpt2", {"float32": 3.0, "bfloat16": 4.0})
    assert known.rates("smollm2-135m") == {"float32": 1.0, "bfloat16": 2.0}
    for changed in ({"threads": 1}, {"hardware": Hardware("Other CPU", 2, 1)}, {"software": {"torch": "2.14"}}):
        assert dataclasses.replace(known, **changed).rates("smollm2-135m") is None


@pytest.mark.parametrize("content", ["", "no json", "{"])
def test_a_broken_file_is_measured_anew(known: StockDtypes, content: str) -> None:
    known.path.parent.mkdir()
    known.path.write_text(content)
    assert known.rates("smollm2-135m") is None
    known.keep("smollm2-135m", {"float32": 1.0})
    assert json.loads(known.path.read_text())


def test_a_folder_that_cannot_be_written_costs_the_figures_only(known: StockDtypes) -> None:
    known.path.parent.write_text("a file where the folder should be")
    known.keep("smollm2-135m", {"float32": 1.0})
    assert known.rates("smollm2-135m") is None


@pytest.fixture
def scripted_stock(monkeypatch: pytest.MonkeyPatch, race_resources: RaceResources, known: StockDtypes) -> RaceResources:
    """`stock` plays a script at a rate of its dtype; nothing waits for quiet."""

    def play(name: str, settings: RaceSettings, model: Any, threads: int) -> SideOptions:
        rate = {"float32": 100, "bfloat16": 200}[settings.dtype]
        return SideOptions(f"scripted:rate={rate}", "", "cpu", settings.dtype, "dense", 1, 1, 200)

    monkeypatch.setattr("eet_demo.race.bench.side_options", play)
    monkeypatch.setattr("eet_demo.race.race.side_options", play)
    monkeypatch.setattr(background, "QUIET_S", 0.2)
    race_resources.stock_dtypes = known
    return race_resources


def finished(resources: RaceResources) -> bool:
    assert isinstance(resources.background, StockDtypesMeasurement)
    resources.background.join(20)
    return not resources.background.running


def run_race(resources: RaceResources) -> dict[str, Any]:
    trace: dict[str, Any] = {}
    for batch in Race(FOLDER_SETTINGS, resources).run():
        for update in batch:
            trace = update.get("trace", trace)
    return trace


def test_measured_once_after_a_race_and_said_in_the_next(scripted_stock: RaceResources, known: StockDtypes) -> None:
    assert run_race(scripted_stock)["notes"] == []
    assert finished(scripted_stock)
    rates = known.rates("smollm2-135m")
    assert rates is not None
    assert rates["bfloat16"] / rates["float32"] == pytest.approx(2, rel=0.2)
    workers = [handle.options.dtype for handle in scripted_stock.pool._handles]
    assert workers == ["float32", "float32"], "the race's two workers stay, the measurement's own does not"
    first = scripted_stock.background
    assert "bfloat16" in run_race(scripted_stock)["notes"][0]
    assert scripted_stock.background is first, "once is enough"


def test_a_race_makes_the_measurement_give_way(
    scripted_stock: RaceResources, known: StockDtypes, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_race(scripted_stock)
    deadline_s = time.monotonic() + 10
    while not scripted_stock.turn.locked() and time.monotonic() < deadline_s:
        time.sleep(0.005)
    assert scripted_stock.turn.locked(), "the measurement has the machine"
    first = scripted_stock.background
    begin_s = time.monotonic()
    assert run_race(scripted_stock)["sides"][0]["state"] == "done"
    assert time.monotonic() - begin_s < 3
    assert known.rates("smollm2-135m") is None or scripted_stock.background is not first
    assert finished(scripted_stock), "begun anew after that race"
    assert known.rates("smollm2-135m") is not None


def test_nothing_is_measured_without_a_place_to_keep_it(scripted_stock: RaceResources) -> None:
    scripted_stock.stock_dtypes = None
    run_race(scripted_stock)
    assert scripted_stock.background is None
