"""`/race` through gradio_client: named parameters, a valid trace, the same queue for everybody."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from gradio_client import Client
from gradio_client.exceptions import AppError

from eet_demo.declared import settings_of
from eet_demo.race.race import Race
from eet_demo.records import RaceSettings
from eet_demo.results.trace import validate_trace
from tests.app.screen import LONG, LONG_TOKENS, QUICK, ScriptedPage

PARAMETERS = [name for name, setting in settings_of(RaceSettings).items() if setting.visitors]


@pytest.fixture(scope="module")
def client(scripted_page: ScriptedPage) -> Client:
    return Client(scripted_page.url, verbose=False)


def test_race_endpoint_has_the_named_parameters_with_defaults(client: Client) -> None:
    endpoints = client.view_api(return_format="dict")["named_endpoints"]
    assert list(endpoints) == ["/race"]  # the page's own events are private
    parameters = endpoints["/race"]["parameters"]
    assert [parameter["parameter_name"] for parameter in parameters] == PARAMETERS
    assert {"model", "context", "new_tokens", "batch", "dtype", "sides", "schedule", "seed"} < set(PARAMETERS)
    assert all(parameter["parameter_has_default"] for parameter in parameters)


def test_race_endpoint_returns_a_valid_trace(client: Client) -> None:
    trace = client.predict(context=64, new_tokens=8, batch=2, sides=[QUICK[0]], prompt="bread", api_name="/race")
    validate_trace(trace)
    assert trace["settings"]["sides"] == [QUICK[0]]
    assert trace["settings"]["context"] == 64
    assert len(trace["sides"][0]["tokens"]["id"]) == 16


def test_weights_are_the_pages_default_unless_given(client: Client) -> None:
    asked = {"context": 64, "new_tokens": 2, "sides": f"{QUICK[0]},{QUICK[1]}", "api_name": "/race"}
    trace = client.predict(**asked)
    assert trace["settings"]["sides"] == list(QUICK), "a comma joins the options of one side, too"
    assert (trace["settings"]["weights"], trace["settings"]["device"]) == ("packed", "cpu")
    assert client.predict(weights="dense", **asked)["settings"]["weights"] == "dense"


def test_two_clients_at_once_both_get_theirs(scripted_page: ScriptedPage, client: Client) -> None:
    other = Client(scripted_page.url, verbose=False)
    found: dict[str, dict[str, Any]] = {}

    def race(name: str, of: Client, prompt: str) -> None:
        found[name] = of.predict(new_tokens=16, prompt=prompt, api_name="/race")

    racers = [
        threading.Thread(target=race, args=("first", client, "bread")),
        threading.Thread(target=race, args=("second", other, "coffee")),
    ]
    for racer in racers:
        racer.start()
    for racer in racers:
        racer.join(timeout=60)
    for name, prompt in (("first", "bread"), ("second", "coffee")):
        trace = validate_trace(found[name])
        assert trace["settings"]["prompt"] == prompt
        assert [len(side["tokens"]["id"]) for side in trace["sides"]] == [16, 16]


LEAVER = """
import sys
from gradio_client import Client
Client(sys.argv[1], verbose=False).predict(new_tokens=int(sys.argv[3]), sides=[sys.argv[2]], api_name="/race")
"""


def test_a_client_that_goes_away_stops_its_race(scripted_page: ScriptedPage) -> None:
    leaver = subprocess.Popen([sys.executable, "-c", LEAVER, scripted_page.url, LONG, str(LONG_TOKENS)])
    try:
        assert changes_within(60, lambda: scripted_page.resources.turn.locked())
        assert not changes_within(1, lambda: not scripted_page.resources.turn.locked())
    finally:
        leaver.kill()
        leaver.wait()
    assert changes_within(15, lambda: not scripted_page.resources.turn.locked()), "half of what was left of it"


def post(url: str, body: Any) -> Any:
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    return json.load(urllib.request.urlopen(request, timeout=60))


def test_a_client_without_a_heartbeat_that_goes_away_stops_its_race(scripted_page: ScriptedPage) -> None:
    """As curl would ask: a call, then its stream, which is dropped."""
    call = f"{scripted_page.url}gradio_api/call"
    event = post(f"{call}/v2/race", {"new_tokens": LONG_TOKENS, "sides": [LONG]})["event_id"]
    with urllib.request.urlopen(f"{call}/race/{event}", timeout=60) as stream:
        assert changes_within(60, lambda: scripted_page.resources.turn.locked())
        assert stream.readline() == b"event: generating\n"
    assert changes_within(15, lambda: not scripted_page.resources.turn.locked()), "half of what was left of it"


def test_nobody_races_past_the_queue(scripted_page: ScriptedPage) -> None:
    with pytest.raises(urllib.error.HTTPError, match="404"):
        post(f"{scripted_page.url}gradio_api/run/race", {"data": []})


def test_a_race_that_ends_without_a_result_is_an_error(
    scripted_page: ScriptedPage, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    def nothing(race: Race) -> Iterator[list[dict[str, Any]]]:
        yield from ()

    monkeypatch.setattr(Race, "run", nothing)
    with pytest.raises(AppError, match=r"stopped before it had a result\. Start the race again"):
        client.predict(api_name="/race")


def test_an_unforeseen_error_keeps_its_words_to_itself(
    scripted_page: ScriptedPage, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(race: Race) -> Any:
        raise ZeroDivisionError("/home/owner/secret")

    monkeypatch.setattr(Race, "run", broken)
    with pytest.raises(AppError, match=r"Something unforeseen failed \(error [0-9a-f]{8}\)\. Try again") as caught:
        client.predict(api_name="/race")
    assert "secret" not in str(caught.value)


def changes_within(seconds: float, happened: Callable[[], bool]) -> bool:
    deadline_s = time.monotonic() + seconds
    while time.monotonic() < deadline_s and not happened():
        time.sleep(0.02)
    return happened()


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"model": "gpt-9"}, "No model is called 'gpt-9'"),
        ({"context": 8000, "new_tokens": 500}, "the model's limit is 8192"),
        ({"prompt": "text:"}, "The prompt is empty"),
        ({"sides": "llama.cpp"}, "unknown side"),
        ({"temperature": -1.0}, "temperature is -1"),
        ({"batch": 10**9}, "batch is 1000000000; it must be a whole number from 1 to 8 (EET_DEMO_MAX_BATCH)"),
        ({"context": "64"}, "context is '64'; it must be a whole number"),
        ({"context": 64.5}, "context is 64.5"),
        ({"context": True}, "context is True"),
        ({"context": None}, "context is None"),
        ({"sides": [1]}, "sides is (1,); it must be names of sides"),
        ({"sides": 5}, "sides is 5"),
        ({"model": {"a": []}}, "model is {'a': "),
        ({"weights": None}, "weights is None; it must be text"),
        ({"dtype": "int8"}, "device 'cpu' has no dtype 'int8'; it has float32"),
        ({"model": "gpt2", "weights": "packed"}, "gpt2 comes as safetensors and has no packed weights"),
        ({"weights": "q2_k"}, "cannot be stored as 'q2_k'; there are packed, dense, q8_0"),
        ({"schedule": "never"}, "schedule is 'never'"),
    ],
)
def test_race_endpoint_says_what_is_wrong(client: Client, asked: dict[str, Any], words: str) -> None:
    with pytest.raises(AppError, match=re.escape(words)):
        client.predict(api_name="/race", **asked)
