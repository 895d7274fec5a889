"""The page: controls, one stage that the script draws, and the events between them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import gradio as gr
from gradio import events

from eet_demo.records import RaceSettings
from eet_demo.ui.api import make_race_endpoint
from eet_demo.ui.calls import Page
from eet_demo.ui.controls import Controls, build_deck, build_more, build_own_text, picker_choices, scripted_html
from eet_demo.ui.handlers import QUEUED_WORDS, RACING_WORDS, READY_WORDS, STOPPING_WORDS, Handlers, MakeRace, session_of
from eet_demo.ui.offer import Offer
from eet_demo.ui.runs import Payload, Runs

TITLE = "EET race"
TAGLINE = "Stock Hugging Face generate against an optimised engine: same model, same ids, same machine."
MACHINE = "machine"
QUEUE_LENGTH = 32

_STATUS_TEMPLATE = """<p class="eet-status">${value}</p>"""


def build_page(offer: Offer, check: Callable[[RaceSettings], None], make_race: MakeRace) -> gr.Blocks:
    """The demo's page, queue included. `check` and `make_race` are what `Handlers` asks for."""

    def check_all(settings: RaceSettings) -> None:
        check(settings)  # first: it takes whatever a client sent
        offer.check(settings)

    handlers = Handlers(Runs(offer.limits.kept_runs), check_all, make_race, offer.precision)
    demo = Page(title=TITLE, analytics_enabled=False, fill_width=True)
    with demo:
        with gr.Row(elem_id="eet-head"):
            _build_head(TITLE, options=True)
            status = gr.HTML(READY_WORDS, html_template=_STATUS_TEMPLATE, apply_default_css=False, elem_id="eet-status")
        with gr.Row(elem_id="eet-deck"):
            parts = build_deck(offer)
            with gr.Column(elem_id="eet-buttons", min_width=120, scale=0):
                race_button = gr.Button("Race", variant="primary", elem_id="eet-race")
                stop_button = gr.Button("Stop", elem_id="eet-stop", interactive=False)
        own_text = build_own_text(offer)
        with gr.Column(elem_id="eet-more"):
            parts |= build_more(offer)
        stage = _build_stage(offer.as_idle(), handlers)
        controls = Controls(offer, parts, own_text)
        controls.listen()
        controls.tell(stage, sealed)
        _connect(handlers, controls, stage, status, race_button, stop_button)
        events.api(
            make_race_endpoint(offer, handlers),
            api_name="race",
            concurrency_id=MACHINE,
            concurrency_limit=1,
        )
        demo.unload(handlers.leave)
        demo.load(
            lambda: gr.HTML(choices=picker_choices(offer.list_models())),
            None,
            controls.parts["model"],
            queue=False,
            show_progress="hidden",
            api_visibility="private",
        )
    demo.queue(max_size=QUEUE_LENGTH, status_update_rate=1, api_open=False)  # nobody races past the queue
    return demo


def build_replay(trace: Mapping[str, Any]) -> gr.Blocks:
    """A page that plays one recorded race; nothing runs."""
    from eet_demo.ui.recording import recorded_result

    demo = gr.Blocks(title=f"{TITLE}: replay", analytics_enabled=False, fill_width=True)
    with demo:
        with gr.Row(elem_id="eet-head"):
            _build_head(f"{TITLE}: replay", options=False)
        _build_stage({"replay": recorded_result(trace)}, None)
    return demo


def _build_head(title: str, options: bool) -> gr.HTML:
    return scripted_html(None, "mountHead", title=title, tagline=TAGLINE, options=options)


def _build_stage(value: dict[str, Any], handlers: Handlers | None) -> gr.HTML:
    """The element that assets/race/stage.js owns. Its value is a small payload, never the text so far."""
    functions: list[Callable[..., Any]] = []
    if handlers is not None:
        # Gradio marks server functions with an attribute, which bound methods refuse.
        def resync(asked: Any) -> list[Payload]:
            return handlers.resync(asked)

        def trace(asked: Any) -> dict[str, Any] | None:
            return handlers.trace(asked)

        functions = [resync, trace]
    return scripted_html(sealed(value), "mountStage", ("go", "leave"), server_functions=functions, elem_id="eet-stage")


def sealed(value: Mapping[str, Any]) -> dict[str, str]:
    """The stage's value as one string inside a dict.

    A string, because Gradio sends differences between yields and gets nested lists that shrink wrong (`deletes_seen`
    in gradio/utils.py counts the deletes of inner lists again); a dict, so that Gradio does not search it for markup.
    """
    return {"json": json.dumps(value, ensure_ascii=False, separators=(",", ":"))}


def _connect(
    handlers: Handlers,
    controls: Controls,
    stage: gr.HTML,
    status: gr.HTML,
    race_button: gr.Button,
    stop_button: gr.Button,
) -> None:
    """Race -> checked at once -> the stage asks for its turn ("go") -> queued; Stop never waits in the queue."""
    outputs = [stage, status, race_button, stop_button]

    def buttons(racing: bool, words: str) -> dict[Any, Any]:
        return {
            status: words,
            race_button: gr.update(interactive=not racing),
            stop_button: gr.update(interactive=racing),
        }

    def press(values: dict[Any, Any], request: gr.Request) -> dict[Any, Any]:
        run, payload = handlers.press(session_of(request), lambda: controls.settings(values))
        return {stage: sealed(payload)} | (buttons(True, QUEUED_WORDS) if run.settings is not None else {})

    def take_turn(request: gr.Request) -> Iterator[dict[Any, Any]]:
        yield {status: RACING_WORDS}
        for payload in handlers.take_turn(session_of(request)):
            yield {stage: sealed(payload)}
        yield buttons(False, READY_WORDS)

    def stop(request: gr.Request) -> dict[Any, Any]:
        payload = handlers.stop(session_of(request))
        if payload is None:
            return {status: STOPPING_WORDS}  # the race ends by itself, with a result
        return {stage: sealed(payload)} | buttons(False, READY_WORDS)

    quiet: dict[str, Any] = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}
    race_button.click(press, controls.inputs, outputs, preprocess=False, **quiet)
    turn = stage.go(
        take_turn,
        None,
        outputs,
        show_progress="minimal",
        show_progress_on=status,
        concurrency_id=MACHINE,
        concurrency_limit=1,
        api_visibility="private",
    )
    stop_button.click(stop, None, outputs, **quiet)
    stage.leave(None, None, None, cancels=[turn], **quiet)
