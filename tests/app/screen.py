"""Reading the page in tests: its state and its numbers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gradio as gr
from playwright.sync_api import Page, expect

from eet_demo.race.resources import RaceResources
from eet_demo.results.trace import Trace, load_trace

QUICK = ("scripted:rate=150,prefill_s=0.2", "scripted:rate=300,prefill_s=0.15,passes=4")
LONG, LONG_TOKENS = "scripted:rate=30", 1024
"""A side that writes for half a minute after two seconds of warm-up: whatever a test does then is in time."""

WAIT_MS = 120_000


@dataclass
class Scene:
    """What the next race of the scripted page is: tests write it, the page's races read it."""

    sides: tuple[str, ...] = QUICK
    changed: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class ScriptedPage:
    """The page under test."""

    url: str
    scene: Scene
    resources: RaceResources
    demo: gr.Blocks


OpenPage = Callable[..., Page]
"""`open_page(url, query, **context_options)`, see the fixture."""

RECORD_MOMENTS = """() => {
    const { stage, player } = window.__race;
    const apply = player.apply.bind(player);
    window.moments = [];
    player.apply = (update, nowMs) => {
        apply(update, nowMs);
        stage.playback.draw();
        moments.push([...document.querySelectorAll('.eet-lane')].map((lane, side) => ({
            state: lane.dataset.state,
            tokens: player.sides[side]?.tokenId.length ?? 0,
            overlay: lane.querySelector('.eet-overlay').textContent,
        })));
    };
}"""

RECORD_STATES = """() => {
    window.states = [];
    const stage = document.querySelector('.eet-stage');
    new MutationObserver(() => states.push(stage.dataset.state)).observe(stage, { attributeFilter: ['data-state'] });
}"""


def press_race(page: Page, press: Callable[[], None] | None = None) -> None:
    """Presses Race (`press` does it in another way) and waits for the server's first word about it."""
    before = page.evaluate("window.__race.stage.inbox.run")
    if press is None:
        page.click("#eet-race")
    else:
        press()
    page.wait_for_function("before => window.__race.stage.inbox.run !== before", arg=before)


def wait_state(page: Page, *states: str) -> None:
    """Waits until the stage is in one of `states`."""
    page.wait_for_function("states => states.includes(window.__race.state)", arg=list(states))


def record_moments(page: Page) -> Callable[[], list[list[dict[str, Any]]]]:
    """From now on every update of a race is drawn and kept: what each lane shows then, however slow the machine is."""
    page.evaluate(RECORD_MOMENTS)
    return lambda: list(page.evaluate("window.moments"))


def record_states(page: Page) -> Callable[[str], None]:
    """Keeps every state of the stage from now on; what it gives waits until the stage has been in one."""
    page.evaluate(RECORD_STATES)

    def passed(state: str) -> None:
        page.wait_for_function("state => window.states.includes(state)", arg=state)

    return passed


def wait_side(page: Page, side: int, *states: str) -> None:
    """Waits until a side is in one of `states`, as the server says."""
    page.wait_for_function(
        "([side, states]) => states.includes(window.__race.player.sides[side]?.state)", arg=[side, list(states)]
    )


def wait_tokens(page: Page, side: int, count: int) -> None:
    page.wait_for_function("([side, n]) => window.__race.player.sides[side]?.tokenId.length >= n", arg=[side, count])


def wait_end(page: Page) -> None:
    """Waits until the race is over and the button can be pressed again; leaves the replay alone."""
    wait_state(page, "done", "replay", "failed", "idle")
    expect(page.locator("#eet-race")).to_be_enabled()


def race_to_end(page: Page) -> None:
    """One click, to the last update; the replay is stopped at its end, so that the screen shows the whole race."""
    press_race(page)
    wait_end(page)
    draw_end(page)


def draw_end(page: Page) -> None:
    page.evaluate("window.__clock.set(window.__clock.durationNs)")


def lane(page: Page, side: int) -> Any:
    return page.locator(f".eet-lane[data-side='{side}']")


def text_of(page: Page, side: int) -> str:
    """The text a lane shows, without the marks between it."""
    return str(
        page.evaluate(
            """side => [...document.querySelector(`.eet-lane[data-side='${side}'] .eet-text`).children]
                .filter(node => !node.classList.contains('eet-mark')).map(node => node.textContent).join('')""",
            side,
        )
    )


def number(page: Page, side: int, name: str) -> tuple[str, float]:
    """What a lane shows for `now`, `average`, `ttft` or `process`: as text, and raw."""
    node = lane(page, side).locator(f"[data-number='{name}']")
    return node.inner_text(), float(node.get_attribute("data-value") or "nan")


def download_trace(page: Page, folder: Path) -> Trace:
    """The trace that the page's button hands out, validated."""
    with page.expect_download() as download:
        page.get_by_role("button", name="Download trace").click()
    path = folder / download.value.suggested_filename
    download.value.save_as(path)
    return load_trace(path)


def side_text(trace: Trace, side: int, row: int = 0, until_ns: float = float("inf")) -> str:
    tokens = trace["sides"][side]["tokens"]
    columns = zip(tokens["row"], tokens["time_ns"], tokens["text"], strict=True)
    return "".join(text for of_row, time_ns, text in columns if of_row == row and time_ns <= until_ns)


def shown(page: Page, kind: str, value: float) -> str:
    """A number as the page writes it: `kind` is a function of assets/race/format.js, which has tests of its own."""
    return str(page.evaluate("([kind, value]) => window.__race.format[kind](value)", [kind, value]))


def choose_own_text(page: Page, text: str) -> None:
    page.get_by_label("Document").click()
    page.get_by_role("option", name="Your own text").click()
    page.locator("#eet-own-text textarea").fill(text)


def set_slider(page: Page, name: str, value: int) -> None:
    field = page.get_by_label(f"number input for {name}")
    field.fill(str(value))
    field.press("Tab")
