"""How the page's script reaches the page and leaves it: its address, a proxy's sub-path, elements that come and go."""

from __future__ import annotations

import contextlib
import re
import socket
import threading
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import gradio as gr
import httpx
import pytest
import uvicorn
from playwright.sync_api import Browser, expect
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import StreamingResponse
from starlette.routing import Route

from eet_demo import paths
from eet_demo.records import as_json
from eet_demo.sides.pairing import shown
from eet_demo.ui import assets
from eet_demo.ui.controls import scripted_html
from eet_demo.ui.launch import launch_options
from eet_demo.ui.page import sealed
from tests.app.screen import OpenPage, ScriptedPage

IDLE = {
    "hardware": {"cpu": "CPU", "cores": 1, "memory_bytes": 2**30},
    "software": {},
    "planned": {"model": "m", "device": "cpu", "dtype": "float32", "weights": "dense"},
    "precision": "",
    "kinds": as_json(shown(["stock", "engine"])),
}

COUNT_SIGNS_OF_LIFE = """stages => {
    for (const stage of [window.first, window.__race.stage]) {
        const fit = stage.fit.bind(stage);
        Object.assign(stage, { ticks: 0, fits: 0, fit: () => { stage.fits++; fit(); } });
        Object.defineProperty(stage.element, 'isConnected', { get: () => { stage.ticks++; return true; } });
    }
}"""


def test_every_own_file_has_the_hash_in_its_folder_and_no_path_of_the_server(
    open_page: OpenPage, scripted_page: ScriptedPage
) -> None:
    page = open_page()
    page.evaluate("document.fonts.ready")
    loaded = page.evaluate("performance.getEntriesByType('resource').map((entry) => entry.name)")
    own = [url.removeprefix(scripted_page.url) for url in loaded if "/page-" in url]
    assert all(re.match(r"page-[0-9a-f]{12}/(race/\w+\.(js|css)|\w+\.css|fonts/)", address) for address in own), own
    modules = [address for address in own if address.endswith(".js")]
    assert sorted(modules) == sorted(f"{assets.BASE}/{name}" for name in assets.MODULES), "each once"
    sheets = sorted(path.relative_to(paths.ASSETS).as_posix() for path in paths.ASSETS.rglob("*.css"))
    styles = sorted(address for address in own if address.endswith(".css"))
    assert styles == [f"{assets.BASE}/{name}" for name in sheets]
    answer = httpx.get(f"{scripted_page.url}{modules[0]}")
    assert "immutable" in answer.headers["cache-control"]
    assert str(paths.ASSETS) not in httpx.get(scripted_page.url).text


def test_only_the_projects_own_files_are_served(scripted_page: ScriptedPage) -> None:
    outside = httpx.get(f"{scripted_page.url}{assets.BASE}/%2e%2e/app.py")
    absolute = httpx.get(f"{scripted_page.url}gradio_api/file={paths.ASSETS}/models.toml")
    assert (outside.status_code, absolute.status_code) == (404, 403)


@contextlib.contextmanager
def proxy(target: str, prefix: str) -> Iterator[str]:
    """A server that hands what is asked below `prefix` on to `target`, as a reverse proxy does."""
    client = httpx.AsyncClient(base_url=target, timeout=30)

    async def forward(request: Request) -> StreamingResponse:
        asked = client.build_request(
            request.method,
            request.url.path.removeprefix(prefix),
            params=request.query_params,
            content=await request.body(),
            headers={**request.headers, "accept-encoding": "identity"},
        )
        answer = await client.send(asked, stream=True)

        async def body() -> AsyncIterator[bytes]:
            async for piece in answer.aiter_raw():
                yield piece
            await answer.aclose()

        kept = {name: value for name, value in answer.headers.items() if name in ("content-type", "cache-control")}
        return StreamingResponse(body(), answer.status_code, kept)

    listening = socket.create_server(("127.0.0.1", 0))
    app = Starlette(routes=[Route(prefix + "{path:path}", forward, methods=["GET", "HEAD", "POST"])])
    server = uvicorn.Server(uvicorn.Config(app, log_level="error"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield f"http://127.0.0.1:{listening.getsockname()[1]}{prefix}"
    server.should_exit = True
    server.force_exit = True
    thread.join(timeout=10)


def stage_alone(value: dict[str, Any]) -> None:
    scripted_html(sealed(value), "mountStage", ("go", "leave"), elem_id="eet-stage")


@contextlib.contextmanager
def served(demo: gr.Blocks, **options: Any) -> Iterator[str]:
    _, url, _ = demo.launch(
        **launch_options(), server_name="127.0.0.1", prevent_thread_lock=True, quiet=True, **options
    )
    yield url
    demo.close()


def test_a_page_below_a_proxys_sub_path_finds_its_files(browser: Browser) -> None:
    with gr.Blocks(analytics_enabled=False) as demo:
        stage_alone({"idle": IDLE})
    with (
        served(demo, root_path="/some/where") as url,
        proxy(url, "/some/where/") as outside,
        browser.new_context() as context,
    ):
        page = context.new_page()
        answers: list[tuple[int, str]] = []
        page.on("response", lambda answer: answers.append((answer.status, answer.url)))
        page.goto(outside)
        expect(page.locator(".eet-lane")).to_have_count(2)
        assert page.evaluate("getComputedStyle(document.querySelector('.eet-lanes')).display") == "grid"
        assert page.evaluate("document.fonts.load('14px EET Inter').then((found) => found.length)") == 1
    own = [status for status, address in answers if assets.BASE in address]
    assert own == [200] * len(own)
    assert len(own) >= len(assets.FILES) - 1, "all but the other font"


@pytest.fixture
def coming_and_going() -> Iterator[str]:
    """A page that throws its stage away and makes a new one each time a button is pressed."""
    with gr.Blocks(analytics_enabled=False) as demo:
        button = gr.Button("Again")

        @gr.render(triggers=[demo.load, button.click])  # type: ignore[untyped-decorator]
        def again() -> None:
            stage_alone({"idle": IDLE})

    with served(demo) as url:
        yield url


def test_a_stage_that_has_gone_stops_and_the_next_one_runs(open_page: OpenPage, coming_and_going: str) -> None:
    page = open_page(url=coming_and_going, needs="window.__race")
    page.evaluate("window.first = window.__race.stage, null")
    page.get_by_role("button", name="Again").click()
    page.wait_for_function("window.__race.stage !== window.first && window.first.closed")
    expect(page.locator(".eet-stage")).to_have_count(1)
    page.evaluate(COUNT_SIGNS_OF_LIFE)
    page.set_viewport_size({"width": 900, "height": 700})
    page.wait_for_function("window.__race.stage.fits")
    page.evaluate("window.dispatchEvent(new Event('eet-layout'))")
    page.wait_for_function("window.__race.stage.ticks >= 5")
    assert page.evaluate("[window.__race.stage.fits >= 2, window.__race.stage.closed]") == [True, False]
    assert page.evaluate("[window.first.ticks, window.first.fits]") == [0, 0]


def test_a_script_that_cannot_be_loaded_is_said_in_place(scripted_page: ScriptedPage, browser: Browser) -> None:
    with browser.new_context() as context:
        page = context.new_page()
        page.route("**/race/stage.js", lambda route: route.abort())
        page.goto(scripted_page.url)
        expect(page.locator("#eet-stage")).to_contain_text("could not be loaded")
        expect(page.locator("#eet-stage")).to_contain_text("Reload the page")
