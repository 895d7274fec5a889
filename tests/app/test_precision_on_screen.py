"""The page says what each side computes with, what a difference costs, and what keeps a race from running."""

from __future__ import annotations

import re
import threading
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from eet_demo.models import catalog
from eet_demo.race import race as runner
from eet_demo.race.session import Session
from eet_demo.results.trace import load_trace
from eet_demo.ui.precision import find_record, load_records, quality_words
from eet_demo.ui.recording import recorded_result
from tests.app.screen import (
    LONG,
    LONG_TOKENS,
    OpenPage,
    ScriptedPage,
    lane,
    number,
    press_race,
    race_to_end,
    wait_end,
    wait_state,
)

SAMPLE = Path(__file__).parents[1] / "fixtures" / "sample.trace.json"


def pick(page: Page, field: str, option: str) -> None:
    page.get_by_label(field).click()
    page.get_by_role("option", name=option).click()


def expect_precision(page: Page, stock: str, engine: str, line: str) -> None:
    expect(page.locator(".eet-precision")).to_contain_text(line)
    for side, words in enumerate((stock, engine)):
        expect(lane(page, side).locator(".eet-config")).to_contain_text(words)


def test_panes_say_their_precision_before_and_after_a_race(open_page: OpenPage) -> None:
    page = open_page()
    expect_precision(page, "float32 · dense weights · cpu", "float32 · packed weights · cpu", "the same numbers")
    expect(page.locator(".eet-strip")).to_contain_text("both sides on the processor (cpu)")
    page.get_by_role("button", name="Options").click()
    pick(page, "Engine's weights", "q8_0")
    settings = {"model": "smollm2-135m", "device": "cpu", "dtype": "float32", "weights": "q8_0"}
    record = find_record(settings, False, load_records())
    assert record is not None
    expect_precision(page, "dense weights", "q8_0 weights", quality_words(record))
    pick(page, "Precision, both sides", "bfloat16")
    expect_precision(page, "bfloat16 · dense weights", "bfloat16 · q8_0 weights", "in bfloat16, against float32")
    race_to_end(page)
    expect_precision(page, "bfloat16 · q8_0 weights", "bfloat16 · q8_0 weights", "in bfloat16, against float32")
    assert page.evaluate("window.__race.player.settings.weights") == "q8_0"


def test_a_race_on_a_gpu_shows_its_memory_there(open_page: OpenPage) -> None:
    trace = load_trace(SAMPLE)
    trace["settings"] |= {"device": "cuda", "dtype": "float16"}
    trace["hardware"] |= {"gpu": "NVIDIA H100", "gpu_memory_bytes": 80 * 2**30, "driver": "580.1"}
    for side in trace["sides"]:
        samples = len(side["memory"]["time_ns"])
        side["memory"] |= {"device_process_bytes": [3 * 2**30] * samples, "process_bytes": [2 * 2**30] * samples}
    page = open_page()
    page.evaluate("recorded => window.__race.stage.receive({ replay: recorded })", recorded_result(trace))
    page.evaluate("window.__clock.set(window.__clock.durationNs)")
    for side in (0, 1):
        expect(lane(page, side).locator(".eet-memory-word")).to_have_text("GPU memory")
        assert number(page, side, "process") == ("3.00 GiB", 3 * 2**30)
        expect(lane(page, side).locator(".eet-memory-legend")).to_contain_text("host process 2.00 GiB")
    expect(page.locator(".eet-strip")).to_contain_text("both sides on the GPU (cuda): NVIDIA H100")


def test_a_note_that_comes_late_is_shown_during_the_race(
    open_page: OpenPage, scripted_page: ScriptedPage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Session, "decide", lambda session: session.notes.append("found out late"))
    scripted_page.scene.sides = (LONG,)
    scripted_page.scene.changed = {"new_tokens": LONG_TOKENS}
    page = open_page()
    press_race(page)
    expect(page.locator(".eet-notes")).to_contain_text("found out late")
    assert page.evaluate("window.__race.player.result") is None
    page.click("#eet-stop")
    wait_end(page)


def test_memory_that_does_not_suffice_is_said_with_the_figures(
    open_page: OpenPage, scripted_page: ScriptedPage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scripted_page.resources, "available_bytes", lambda: 20_000_000)
    scripted_page.scene.sides = ("engine",)
    page = open_page()
    press_race(page)
    alert = page.get_by_role("alert").filter(has_text="Engine needs")
    expect(alert).to_contain_text("are available. Choose a smaller model, context or batch.")
    wait_state(page, "failed")


def test_stop_during_a_download_ends_quietly(
    open_page: OpenPage, scripted_page: ScriptedPage, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    fetched = threading.Event()

    def fetch(model: str, models_dir: Path, hub_enabled: bool, report: Any) -> Path:
        report("downloading", 1, 4)
        fetched.wait(120)
        return tmp_path

    monkeypatch.setattr(catalog, "local_folder", lambda model, models_dir: None)
    monkeypatch.setattr(runner, "resolve", fetch)
    page = open_page()
    press_race(page)
    # The clock goes on, although the server repeats the state with every tick.
    expect(lane(page, 0).locator(".eet-phase")).to_have_text(re.compile(r"downloading 25 % [1-9]\d*\.\d s"))
    page.click("#eet-stop")
    wait_state(page, "idle")
    for side in (0, 1):
        expect(lane(page, side).locator(".eet-state")).to_have_text("stopped")
        expect(lane(page, side).locator(".eet-overlay")).to_contain_text("in the background")
    expect(page.locator(".eet-notice")).to_be_hidden()
    expect(page.locator("#eet-race")).to_be_enabled()
    fetched.set()
