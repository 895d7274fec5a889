"""Whatever is sent to `/race` or by the page: a result or a refusal that says why comes soon, and nothing stays behind.

The races are instant ones: what is tested is everything before a race, and what is left after it.
"""

from __future__ import annotations

import gc
import itertools
import json
import os
import time
import tracemalloc
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gradio as gr
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from eet_demo.declared import Limits, settings_of
from eet_demo.machine import hardware
from eet_demo.race.resources import RaceResources
from eet_demo.records import Hardware, RaceSettings
from eet_demo.results.software import software_versions
from eet_demo.text.prompts import OWN_TEXT, load_documents
from eet_demo.ui.api import Endpoint, make_race_endpoint
from eet_demo.ui.controls import Controls, build_deck, build_more, build_own_text
from eet_demo.ui.handlers import Handlers
from eet_demo.ui.launch import launch_options
from eet_demo.ui.offer import ModelChoice, Offer
from eet_demo.ui.page import build_page
from eet_demo.ui.runs import Runs

ANSWERS_S = 2.0
TRACE: dict[str, Any] = {"sides": [], "notes": []}
PARAMETERS = [name for name, setting in settings_of(RaceSettings).items() if setting.visitors]
DERANDOMIZED = bool(os.environ.get("CI"))
CHECKS = settings(
    max_examples=1000,
    deadline=None,  # the processor's time is measured instead: the machine may be busy
    derandomize=DERANDOMIZED,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)

TEXTS = [
    "",
    " ",
    "bread",
    OWN_TEXT,
    f"{OWN_TEXT}🦀 crab",
    f"{OWN_TEXT}half \ud83e",
    "\u202eright to left",
    "a\x00b",
    "\udfff",
]
MODELS = ["smollm2-135m", "gpt2", "shape:gpt2", "shape:", "/etc/passwd", "~nobody", "../x", "owner/name", "x.gguf"]
SIDES = ["stock", "engine", "stock-eager,engine", "engine:graph=off", "engine:", "scripted:rate=1", ",", "engine:a=b,c"]
NUMBERS = [0, 1, -1, 2, 8, 9, 31, 64, 100, 1024, 2**31, 2**63, 2**64, 10**400, 10**5000, 0.5, 1e-46, 1e300, -0.0]
ODD = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.sampled_from(NUMBERS),
    st.text(st.characters(), max_size=20),
    st.sampled_from(TEXTS),
    st.sampled_from(MODELS),
    st.sampled_from(SIDES),
    st.sampled_from(["a" * 60_000, "a" * 40_000, f"{OWN_TEXT}{'é ' * 20_000}", ["stock"] * 1000]),
    st.lists(st.sampled_from(SIDES) | st.integers() | st.none(), max_size=3),
    st.dictionaries(st.text(max_size=3), st.integers(), max_size=2),
)
ASKED = st.dictionaries(st.sampled_from(PARAMETERS), ODD, max_size=5)


class InstantRace:
    """Has its result at once."""

    def __init__(self, asked: RaceSettings) -> None:
        self.asked = asked

    def run(self) -> Iterator[list[dict[str, Any]]]:
        yield [{"kind": "result", "trace": TRACE}]

    def stop(self) -> None:
        """There is nothing to stop."""


@pytest.fixture(scope="module")
def resources(models_dir: Path) -> RaceResources:
    return RaceResources(models_dir, Hardware("CPU", 2, 2**33), 1, hardware.available_memory_bytes)


@pytest.fixture(scope="module")
def offer() -> Offer:
    models = (
        ModelChoice("smollm2-135m", "SmolLM2 135M Instruct", 8192, "", packed=True),
        ModelChoice("gpt2", "GPT-2 124M", 1024, "", "the Hub cannot be reached"),
    )
    return Offer(lambda: models, load_documents(), Hardware("CPU", 2, 2**33), software_versions())


@pytest.fixture(scope="module")
def handlers(resources: RaceResources, offer: Offer) -> Handlers:
    def check(asked: RaceSettings) -> None:
        resources.check(asked)
        offer.check(asked)

    return Handlers(Runs(), check, InstantRace, offer.precision)


@pytest.fixture(scope="module")
def race(offer: Offer, handlers: Handlers) -> Callable[[dict[str, Any]], None]:
    """Asks `/race`'s function for a race, and checks its answer."""
    endpoint: Endpoint = make_race_endpoint(offer, handlers)
    defaults = [getattr(offer.default_settings, name) for name in PARAMETERS]
    sessions = itertools.count()

    def ask(asked: dict[str, Any]) -> None:
        values = [asked.get(name, value) for name, value in zip(PARAMETERS, defaults, strict=True)]
        values = [",".join(value) if isinstance(value, tuple) else value for value in values]
        begin_s = time.thread_time()
        try:
            *_, answer = endpoint(SimpleNamespace(session_hash=f"{next(sessions)}"), *values)
            assert answer == TRACE
        except gr.Error as error:
            check_refusal(str(error.message))
        assert time.thread_time() - begin_s < ANSWERS_S

    return ask


def check_refusal(words: str) -> None:
    """It says what is wrong, in a few words that can be sent."""
    assert "unforeseen" not in words, words
    assert 10 < len(words.encode()) < 4000, words


@CHECKS
@given(asked=ASKED)
@example(asked={"batch": 8, "context": 8128})
@example(asked={"batch": 10**9, "new_tokens": 8000})
@example(asked={"prompt": OWN_TEXT + "".join(map(chr, range(0x10000, 0x1B000))), "context": 8000})
def test_race_answers_whatever_it_is_asked(race: Callable[[dict[str, Any]], None], asked: dict[str, Any]) -> None:
    race(asked)


@pytest.fixture(scope="module")
def controls(offer: Offer) -> Controls:
    with gr.Blocks():
        return Controls(offer, build_deck(offer) | build_more(offer), build_own_text(offer))


@CHECKS
@given(sent=st.dictionaries(st.sampled_from([*PARAMETERS, "own_text"]), ODD, max_size=5))
@example(sent={"prompt": OWN_TEXT, "own_text": {"a": 1}})
def test_the_pages_button_answers_whatever_is_sent(
    handlers: Handlers, controls: Controls, sent: dict[str, Any]
) -> None:
    parts = {**controls.parts, "own_text": controls.own_text}
    values = {part: sent.get(name, part.value) for name, part in parts.items()}
    begin_s = time.thread_time()
    run, payload = handlers.press("session", lambda: controls.settings(values))
    kinds = [update["kind"] for update in payload["updates"]]
    if run.settings is not None:
        assert kinds == ["queued", "go"]
        assert [update["kind"] for each in handlers.take_turn("session") for update in each["updates"]] == [
            "result",
            "end",
        ]
    else:
        assert kinds == ["error"]
        check_refusal(payload["updates"][0]["message"])
    assert time.thread_time() - begin_s < ANSWERS_S


@settings(CHECKS, max_examples=300)
@given(values=st.lists(ODD, min_size=3, max_size=3), asked=ODD | st.fixed_dictionaries({"run": ODD, "from_seq": ODD}))
def test_the_pages_other_events_answer_whatever_is_sent(
    handlers: Handlers, controls: Controls, values: list[Any], asked: Any
) -> None:
    controls._choose_document(values[0])
    controls._choose_weights(values[0], values[1])
    controls._limit_context("smollm2-135m", values[1], values[2])
    controls._limit_context(*values)
    assert handlers.resync(asked) == []
    assert handlers.trace(asked) is None


def test_requests_leave_nothing_behind(race: Callable[[dict[str, Any]], None]) -> None:
    """Bytes that this package has allocated, after many clients that never come back."""
    odd: list[dict[str, Any]] = [{}, {"prompt": "a" * 40_000}, {"batch": 9}]

    def ask(times: int) -> int:
        for asked in odd * times:
            race(asked)
        gc.collect()
        own = tracemalloc.take_snapshot().filter_traces([tracemalloc.Filter(True, "*/eet_demo/*")])
        return sum(each.size for each in own.statistics("filename"))

    tracemalloc.start()
    try:
        before_bytes = ask(Limits().kept_runs + 1)
        assert ask(2 * Limits().kept_runs) - before_bytes < 20_000
    finally:
        tracemalloc.stop()


@pytest.fixture(scope="module")
def url(resources: RaceResources, offer: Offer) -> Iterator[str]:
    demo = build_page(offer, resources.check, InstantRace)
    _, address, _ = demo.launch(**launch_options(), server_name="127.0.0.1", prevent_thread_lock=True, quiet=True)
    yield f"{address}gradio_api/call"
    demo.close()


def sent(url: str, body: bytes) -> tuple[int, bytes]:
    request = urllib.request.Request(url, body, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


@settings(CHECKS, max_examples=30)
@given(asked=ASKED)
@example(asked={})
def test_server_answers_whatever_it_is_sent(url: str, asked: dict[str, Any]) -> None:
    body = json.dumps({name: value for name, value in asked.items() if value != 10**5000}).encode()
    status, answer = sent(f"{url}/v2/race", body)
    assert status == 200
    with urllib.request.urlopen(f"{url}/race/{json.loads(answer)['event_id']}", timeout=30) as stream:
        *_, event, data = [line for line in stream.read().decode().splitlines() if line]
    told = json.loads(data.removeprefix("data: "))
    if event == "event: complete":
        assert told == [TRACE]
    else:
        assert event == "event: error"
        check_refusal(told["error"])


@pytest.mark.parametrize(
    ("path", "body", "status", "words"),
    [
        ("/v2/race", b'{"contxt": 5}', 422, b"contxt"),
        ("/v2/nothing", b"{}", 404, b"No endpoint is called 'nothing'"),
        ("/v2/race", b"[1]", 422, b"valid dictionary"),
        ("/race", b'{"data": "x"}', 422, b"valid list"),
        ("/race", b"{", 422, b"JSON decode error"),
        ("/race", b'{"data": [' + b"9" * 5000 + b"]}", 400, b"error parsing the body"),
    ],
)
def test_what_is_no_call_is_refused_by_name(url: str, path: str, body: bytes, status: int, words: bytes) -> None:
    found, answer = sent(url + path, body)
    assert found == status
    assert words in answer


def test_too_few_values_are_refused_by_number(url: str) -> None:
    _, answer = sent(f"{url}/race", b'{"data": [1, 2, 3]}')
    with urllib.request.urlopen(f"{url}/race/{json.loads(answer)['event_id']}", timeout=30) as stream:
        assert f"3 values were given; this call takes {len(PARAMETERS)}" in stream.read().decode()
