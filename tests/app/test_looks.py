"""What fits on the screen, what can be read, and a recording played on a page of its own."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageChops
from playwright.sync_api import Page, expect

from eet_demo.results.metrics import side_metrics
from eet_demo.results.trace import load_trace
from eet_demo.ui.launch import launch_options
from eet_demo.ui.page import build_replay
from tests.app.screen import OpenPage, ScriptedPage, draw_end, lane, number, race_to_end, shown, side_text, text_of

SAMPLE = Path(__file__).parents[1] / "fixtures" / "sample.trace.json"

READABLE = 4.5
"""WCAG 2 AA for text; 3 for large text (24 px, or bold from 18.7 px)."""

CONTRASTS = """() => {
    const canvas = document.createElement('canvas').getContext('2d', { willReadFrequently: true });
    const rgba = (color) => {
        canvas.clearRect(0, 0, 1, 1);
        canvas.fillStyle = color;
        canvas.fillRect(0, 0, 1, 1);
        return [...canvas.getImageData(0, 0, 1, 1).data];
    };
    const over = (top, below) => [0, 1, 2].map((i) => (top[i] * top[3] + below[i] * (255 - top[3])) / 255).concat(255);
    const linear = (value) => (value <= 0.03928 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4);
    const light = (color) => [0.2126, 0.7152, 0.0722].reduce((sum, part, i) => sum + part * linear(color[i] / 255), 0);
    const upwards = (node) => (node ? [...upwards(node.parentElement), getComputedStyle(node)] : []);
    const found = [];
    const walker = document.createTreeWalker(document.querySelector('main'), NodeFilter.SHOW_TEXT);
    for (let text = walker.nextNode(); text; text = walker.nextNode()) {
        const node = text.parentElement;
        if (!text.data.trim() || !node.checkVisibility() || node.closest(':disabled, option')) continue;
        const styles = upwards(node);
        const opacity = styles.reduce((all, style) => all * style.opacity, 1);
        if (opacity < 0.05) continue; // fading away
        const ground = styles.reduce((below, style) => over(rgba(style.backgroundColor), below), [255, 255, 255, 255]);
        const own = styles.at(-1);
        const ink = rgba(own.color);
        ink[3] *= opacity;
        const [high, low] = [light(over(ink, ground)), light(ground)].sort((a, b) => b - a);
        const size = parseFloat(own.fontSize);
        const large = size >= 24 || (size >= 18.66 && Number(own.fontWeight) >= 700);
        found.push([(high + 0.05) / (low + 0.05), large, text.data.trim().slice(0, 40), node.className]);
    }
    return found;
}"""

BEYOND_THE_EDGE = """() => [...document.querySelectorAll('main *')]
    .filter((node) => node.checkVisibility() && !node.closest('.eet-sr, option'))
    .filter((node) => getComputedStyle(node).position !== 'absolute')
    .filter((node) => node.getBoundingClientRect().right > innerWidth + 1)
    .map((node) => node.className || node.tagName)"""

LISTEN = """() => {
    window.said = [];
    const { screen } = window.__race.stage;
    const announce = screen.announce.bind(screen);
    screen.announce = (words) => {
        announce(words);
        said.push(document.querySelector('.eet-sr').textContent);
    };
}"""


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_every_text_can_be_read(open_page: OpenPage, scripted_page: ScriptedPage, theme: str) -> None:
    ids = "ids=504+2644+2+504+2644+9531"
    scripted_page.scene.sides = (f"scripted:rate=300,{ids}", f"scripted:rate=300,differ_at=9,{ids}")
    page = open_page(query=f"?__theme={theme}")
    assert page.evaluate("document.body.classList.contains('dark')") == (theme == "dark")
    page.get_by_role("button", name="Options").click()
    race_to_end(page)
    texts = page.evaluate(CONTRASTS)
    assert len(texts) > 60
    dim = [text for text in texts if text[0] < (3 if text[1] else READABLE)]
    assert not dim


def test_theme_follows_the_system_and_the_button(open_page: OpenPage) -> None:
    page = open_page(query="", color_scheme="dark")
    is_dark = "document.body.classList.contains('dark')"
    assert page.evaluate(is_dark)
    page.get_by_role("button", name="Light").click()
    assert not page.evaluate(is_dark)
    expect(page.get_by_role("button", name="Dark")).to_be_visible()


def test_the_race_fits_a_recorded_screen_without_scrolling(open_page: OpenPage) -> None:
    page = open_page()
    for when in ("before", "after"):
        if when == "after":
            race_to_end(page)
        box = page.evaluate("[document.scrollingElement.scrollWidth, document.scrollingElement.scrollHeight]")
        assert box[0] <= 1280, when
        assert box[1] <= 720, when
        for name in (".eet-strip", ".eet-transport", ".eet-canvas", ".eet-lane[data-side='1'] .eet-text-box"):
            place = page.locator(name).bounding_box()
            assert place is not None
            assert place["y"] + place["height"] <= 720, (when, name)
    text = lane(page, 0).locator(".eet-text").bounding_box()
    assert text is not None
    assert text["height"] >= 90


def test_a_phone_shows_everything_in_one_column(open_page: OpenPage) -> None:
    page = open_page(viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True)
    race_to_end(page)
    assert page.evaluate("document.scrollingElement.scrollWidth") <= 390
    assert not page.evaluate(BEYOND_THE_EDGE)
    first, second = (lane(page, side).bounding_box() for side in (0, 1))
    assert first is not None
    assert second is not None
    assert second["y"] >= first["y"] + first["height"]
    assert text_of(page, 1)


def test_every_control_is_reached_by_keyboard(open_page: OpenPage) -> None:
    page = open_page()
    reached = set()
    for _ in range(30):
        page.keyboard.press("Tab")
        reached.add(
            page.evaluate("document.activeElement.getAttribute('aria-label') || document.activeElement.innerText")
        )
        if "Race" in reached:
            break
        outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
        shadow = page.evaluate("getComputedStyle(document.activeElement).boxShadow")
        border = page.evaluate("document.activeElement.closest('.wrap, .block')?.matches(':focus-within') ?? false")
        assert outline != "none" or shadow != "none" or border, reached
    wanted = {"Options", "Dark", "Document", "Question, pick or write", "range slider for New tokens", "Race"}
    assert wanted <= reached, reached


def test_states_are_announced_without_the_text(open_page: OpenPage) -> None:
    page = open_page()
    page.evaluate(LISTEN)
    race_to_end(page)
    said = page.evaluate("window.said")
    assert 3 <= len(said) <= 12, said
    assert any("Race finished" in words for words in said)
    assert not any(text_of(page, 0)[:30] in words for words in said)


@pytest.fixture(scope="module")
def replay_url() -> Iterator[str]:
    demo = build_replay(load_trace(SAMPLE))
    _, url, _ = demo.launch(**launch_options(), server_name="127.0.0.1", prevent_thread_lock=True, quiet=True)
    yield url
    demo.close()


def open_replay(open_page: OpenPage, url: str, **options: Any) -> Page:
    page = open_page(url=url, needs="window.__race && window.__race.player.result", **options)
    draw_end(page)
    return page


def test_a_recording_plays_with_its_own_numbers(open_page: OpenPage, replay_url: str) -> None:
    trace = load_trace(SAMPLE)
    page = open_replay(open_page, replay_url)
    lengths = [len(row) for row in trace["prompt_ids"]]
    for side in (0, 1):
        rate = side_metrics(trace["sides"][side]["tokens"], lengths)["decode_tok_s"]
        assert number(page, side, "average") == (shown(page, "rate", rate), rate)
        assert text_of(page, side) == side_text(trace, side)
    expect(page.locator(".eet-strip")).to_contain_text("played back, not running now")
    expect(page.locator(".eet-strip")).to_contain_text(trace["hardware"]["cpu"])


def differing_pixels(one: bytes, other: bytes) -> int:
    """Pixels that differ visibly; Chromium may shade a layer's edges anew."""
    pictures = [Image.open(io.BytesIO(shot)).convert("L") for shot in (one, other)]
    histogram = ImageChops.difference(*pictures).histogram()
    return sum(histogram[64:])


def test_the_virtual_clock_draws_the_same_screen_twice(open_page: OpenPage, replay_url: str) -> None:
    page = open_replay(open_page, replay_url)
    shots = []
    for ns in (0.9e9, 0.2e9, 0.9e9):
        page.evaluate("ns => window.__clock.set(ns)", ns)
        shots.append(page.locator(".eet-stage").screenshot(animations="disabled"))
    assert differing_pixels(shots[0], shots[2]) < 100
    assert differing_pixels(shots[0], shots[1]) > 1000
