"""Bad input, faults, Stop, visitors that queue or leave: said on the page, nothing lost, and the next race works."""

from __future__ import annotations

import time

import psutil
import pytest
from playwright.sync_api import Page, expect

from eet_demo.race.resources import RaceResources
from tests.app.screen import (
    LONG,
    LONG_TOKENS,
    QUICK,
    OpenPage,
    ScriptedPage,
    choose_own_text,
    lane,
    press_race,
    race_to_end,
    set_slider,
    text_of,
    wait_end,
    wait_side,
    wait_state,
    wait_tokens,
)

GONE_S = 15.0
"""Within this time a race stops after its tab was closed: half of what is left of it."""


def assert_next_race_works(page: Page, scene_page: ScriptedPage) -> None:
    scene_page.scene.sides, scene_page.scene.changed = QUICK, {}
    race_to_end(page)
    expect(page.locator(".eet-notice")).to_be_hidden()
    for side in (0, 1):
        expect(lane(page, side).locator(".eet-state")).to_have_text("done")
        assert text_of(page, side)


def expect_refusal(page: Page, words: str) -> None:
    """Race is pressed; the page says `words` in place, and can be used."""
    press_race(page)
    expect(page.get_by_role("alert").filter(has_text=words)).to_be_visible()
    expect(page.locator("#eet-race")).to_be_enabled()


def test_bad_input_is_said_in_place_and_nothing_is_lost(open_page: OpenPage, scripted_page: ScriptedPage) -> None:
    page = open_page()
    set_slider(page, "New tokens", 33)
    choose_own_text(page, "  ")
    expect_refusal(page, "The prompt is empty")
    choose_own_text(page, "one two three " * 200)
    expect_refusal(page, "Shorten it by")
    set_slider(page, "Context, tokens", 32)
    expect_refusal(page, "a context of 32 ids has room for")
    expect(page.get_by_label("number input for New tokens")).to_have_value("33")
    expect(page.locator("#eet-own-text textarea")).to_have_value("one two three " * 200)
    set_slider(page, "Context, tokens", 128)
    page.get_by_label("Document").click()
    page.get_by_role("option", name="A Short History of the Bicycle").click()
    assert_next_race_works(page, scripted_page)


def test_context_ends_at_the_limit_less_the_new_tokens(open_page: OpenPage) -> None:
    page = open_page()
    set_slider(page, "New tokens", 1000)
    expect(page.get_by_label("range slider for Context, tokens")).to_have_attribute("max", str(8192 - 1000))


def test_models_that_cannot_race_are_greyed_with_the_reason(open_page: OpenPage) -> None:
    page = open_page()
    option = page.locator("#eet-model-list option[value='gpt2']")
    expect(option).to_be_disabled()
    expect(option).to_contain_text("the Hub cannot be reached")
    expect(page.locator("#eet-model-list")).to_have_value("smollm2-135m")


@pytest.mark.parametrize(
    ("fault", "words"), [("fail_in=load", "the scripted side fails in load"), ("die_in=decode", "SIGKILL")]
)
def test_a_side_that_fails_says_so_in_its_lane(
    open_page: OpenPage, scripted_page: ScriptedPage, fault: str, words: str
) -> None:
    scripted_page.scene.sides = (QUICK[0], f"scripted:rate=300,{fault}")
    page = open_page()
    press_race(page)
    wait_end(page)
    expect(lane(page, 1).locator(".eet-state")).to_have_text("failed")
    expect(lane(page, 1).locator(".eet-lane-error")).to_contain_text(words, ignore_case=True)
    expect(lane(page, 0).locator(".eet-state")).to_have_text("done")
    expect(page.locator(".eet-speedup-caption")).to_have_text("no speed-up: a side did not write")


def test_a_worker_killed_from_outside_is_said_and_replaced(open_page: OpenPage, scripted_page: ScriptedPage) -> None:
    scripted_page.scene.sides, scripted_page.scene.changed = (LONG, QUICK[1]), {"new_tokens": LONG_TOKENS}
    page = open_page()
    press_race(page)
    wait_tokens(page, 0, 2)
    worker = next(handle for handle in scripted_page.resources.pool.handles if handle.busy)
    psutil.Process(worker.pid).kill()
    wait_end(page)
    expect(lane(page, 0).locator(".eet-lane-error")).to_contain_text("SIGKILL")
    assert_next_race_works(page, scripted_page)


STOPS = {
    "loading": "scripted:load_s=20",
    "prefilling": "scripted:prefill_s=20,deaf=on",
    "decoding": LONG,
}


def test_stop_works_in_every_phase(open_page: OpenPage, scripted_page: ScriptedPage) -> None:
    page = open_page()
    for moment, scene in STOPS.items():
        scripted_page.scene.sides, scripted_page.scene.changed = (scene, QUICK[1]), {"new_tokens": LONG_TOKENS}
        press_race(page)
        wait_side(page, 0, moment)
        if moment == "decoding":
            wait_tokens(page, 0, 2)
        page.click("#eet-stop")
        wait_end(page)
        for side in (0, 1):
            expect(lane(page, side).locator(".eet-state")).to_have_text("stopped")
        assert bool(text_of(page, 0)) == (moment == "decoding"), moment
    assert_next_race_works(page, scripted_page)


def idle_within(resources: RaceResources, seconds: float) -> bool:
    """Whether no race holds the machine and no worker is busy, at the latest after `seconds`."""
    deadline_s = time.monotonic() + seconds
    while time.monotonic() < deadline_s:
        if not resources.turn.locked() and not any(handle.busy for handle in resources.pool.handles if handle.alive):
            return True
        time.sleep(0.02)
    return False


@pytest.mark.parametrize("scene", [LONG, "scripted:prefill_s=60,deaf=on"], ids=["decode", "warm-up"])
def test_a_closed_tab_stops_its_race(open_page: OpenPage, scripted_page: ScriptedPage, scene: str) -> None:
    scripted_page.scene.sides, scripted_page.scene.changed = (scene, QUICK[1]), {"new_tokens": LONG_TOKENS}
    page = open_page()
    press_race(page)
    wait_side(page, 0, "decoding" if "rate" in scene else "warming")
    assert scripted_page.resources.turn.locked()
    page.close()
    assert idle_within(scripted_page.resources, GONE_S)


def test_the_second_visitor_sees_the_place_and_then_races(open_page: OpenPage, scripted_page: ScriptedPage) -> None:
    scripted_page.scene.sides, scripted_page.scene.changed = (LONG, QUICK[1]), {"new_tokens": LONG_TOKENS}
    first, second = open_page(), open_page()
    press_race(first)
    wait_tokens(first, 0, 1)
    scripted_page.scene.sides, scripted_page.scene.changed = QUICK, {"new_tokens": 24}
    press_race(second)
    wait_state(second, "queued")
    expect(second.locator("#eet-status")).to_contain_text("queue: 1/1")
    expect(lane(second, 0).locator(".eet-state")).to_have_text("queued")
    first.click("#eet-stop")
    wait_state(second, "done", "replay")
    assert second.evaluate("window.__race.player.sides.map((side) => side.tokenId.length)") == [24, 24]
    wait_end(first)
    for side in (0, 1):
        expect(lane(first, side).locator(".eet-state")).to_have_text("stopped")


def test_a_visitor_who_waits_can_leave_the_queue(open_page: OpenPage, scripted_page: ScriptedPage) -> None:
    scripted_page.scene.sides, scripted_page.scene.changed = (LONG, QUICK[1]), {"new_tokens": LONG_TOKENS}
    first, second = open_page(), open_page()
    press_race(first)
    wait_tokens(first, 0, 1)
    press_race(second)
    wait_state(second, "queued")
    second.click("#eet-stop")
    wait_state(second, "idle")
    expect(second.locator("#eet-race")).to_be_enabled()
    first.click("#eet-stop")
    wait_end(first)
    assert_next_race_works(second, scripted_page)
