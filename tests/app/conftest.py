"""A page between scripted sides, and a real Chromium to look at it.

Without Chromium the browser tests skip, and say so at the end.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect, sync_playwright

from eet_demo.machine import hardware
from eet_demo.race.race import Race
from eet_demo.race.resources import RaceResources
from eet_demo.records import Hardware, RaceSettings
from eet_demo.results.software import software_versions
from eet_demo.text.prompts import load_documents
from eet_demo.ui.launch import launch_options
from eet_demo.ui.offer import ModelChoice, Offer
from eet_demo.ui.page import build_page
from tests.app.screen import QUICK, WAIT_MS, OpenPage, Scene, ScriptedPage

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
BROWSER_OPTIONS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-quic",
    "--no-first-run",
]
SKIP_REASON = "no Chromium on this machine; Debian: apt-get install chromium"
HARDWARE = Hardware("Scripted CPU", 2, 2**33)
STYLED = "[...document.querySelectorAll('link[rel=stylesheet]')].every((link) => link.sheet)"

expect.set_options(timeout=WAIT_MS)


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Skipped browser tests are loud."""
    skipped = [report for report in terminalreporter.stats.get("skipped", []) if SKIP_REASON in str(report.longrepr)]
    if skipped:
        terminalreporter.section("BROWSER TESTS SKIPPED", sep="!", red=True, bold=True)
        terminalreporter.line(f"{len(skipped)} tests of the page did not run: {SKIP_REASON}")


@pytest.fixture(scope="session")
def scripted_page(models_dir: Path) -> Iterator[ScriptedPage]:
    """The whole page in this process, its races between scripted sides in workers of their own."""
    resources = RaceResources(
        models_dir=models_dir,
        hardware=HARDWARE,
        threads=1,
        available_bytes=hardware.available_memory_bytes,
        allow_scripted=True,
    )
    scene = Scene()

    def choices() -> tuple[ModelChoice, ...]:
        here = ModelChoice("smollm2-135m", "SmolLM2 135M Instruct", 8192, "135M parameters", packed=True)
        return here, ModelChoice("gpt2", "GPT-2 124M", 1024, "124M parameters", "the Hub cannot be reached")

    def make_race(settings: RaceSettings) -> Race:
        asked = scene.sides if settings.sides == ("stock", "engine") else settings.sides
        return Race(replace(settings, sides=asked, **scene.changed), resources)

    offer = Offer(choices, load_documents(), HARDWARE, software_versions())
    demo = build_page(offer, resources.check, make_race)
    _, url, _ = demo.launch(**launch_options(), server_name="127.0.0.1", prevent_thread_lock=True, quiet=True)
    yield ScriptedPage(url, scene, resources, demo)
    demo.close()
    resources.close()


@pytest.fixture(autouse=True)
def _quick_scene(request: pytest.FixtureRequest) -> Iterator[None]:
    """Every test begins with the quick scene and an idle machine."""
    yield
    if "scripted_page" in request.fixturenames:
        page: ScriptedPage = request.getfixturevalue("scripted_page")
        page.scene.sides, page.scene.changed = QUICK, {}
        assert page.resources.turn.acquire(timeout=30), "a race outlived its test"
        page.resources.turn.release()


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    path = next((found for name in BROWSERS if (found := shutil.which(name))), None)
    if path is None:
        pytest.skip(SKIP_REASON)
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=path, args=BROWSER_OPTIONS)
        yield chromium
        chromium.close()


@pytest.fixture
def open_page(browser: Browser, scripted_page: ScriptedPage) -> Iterator[OpenPage]:
    """Opens the page in a fresh context (`new_context`'s options); at the end nothing may have gone wrong in it.

    Wrong is: an error on the console, an exception, an answer of 400 and above, a request that leaves this machine.
    """
    contexts: list[BrowserContext] = []
    wrong: list[str] = []

    def open_(
        url: str = scripted_page.url,
        query: str = "?__theme=light",
        needs: str = "window.__race && document.querySelector('#eet-race')",
        **options: Any,
    ) -> Page:
        context = browser.new_context(**{"viewport": {"width": 1280, "height": 720}, **options})
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(WAIT_MS)
        watch(page, wrong)
        page.goto(url + query)
        page.wait_for_function(needs)
        page.wait_for_function(STYLED)
        page.evaluate("document.fonts.ready")
        return page

    yield open_
    for context in contexts:
        context.close()
    assert not wrong


def watch(page: Page, wrong: list[str]) -> None:
    """Collects everything of `page` that must not happen."""
    page.on("console", lambda message: wrong.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("response", lambda answer: wrong.append(f"{answer.status} {answer.url}") if answer.status >= 400 else None)
    page.on("request", lambda request: None if is_local(request.url) else wrong.append(f"left: {request.url}"))


def is_local(url: str) -> bool:
    return url.startswith(("http://127.0.0.1:", "data:", "blob:"))
