"""The trace's schema is the contract: the loader and jsonschema agree about every trace, whole or broken."""

from __future__ import annotations

import copy
import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eet_demo.errors import TraceError
from eet_demo.results.trace import load_schema, load_trace, parse_trace, save_trace, validate_trace

SAMPLE_PATH = Path(__file__).parents[1] / "fixtures" / "sample.trace.json"
SAMPLE: dict[str, Any] = json.loads(SAMPLE_PATH.read_text(encoding="utf-8"))


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of every value in a JSON document, columns sampled at their first entry only."""
    yield path
    if isinstance(value, dict):
        for key, item in value.items():
            yield from places(item, (*path, key))
    elif isinstance(value, list) and value:
        yield from places(value[0], (*path, 0))


def refusal(trace: Any) -> str:
    """What is said against a trace; empty when it is taken."""
    try:
        validate_trace(trace)
    except TraceError as error:
        return str(error)
    return ""


def put(document: Any, path: tuple[Any, ...], value: Any) -> None:
    for key in path[:-1]:
        document = document[key]
    document[path[-1]] = value


def without(document: Any, path: tuple[Any, ...]) -> None:
    for key in path[:-1]:
        document = document[key]
    del document[path[-1]]


PLACES = [path for path in places(SAMPLE) if path]
SCHEMA_VALIDATOR = jsonschema.Draft202012Validator(load_schema())
ODD_VALUES = [None, True, False, 0, 1, -1, 1.5, 2.0, "", "eet-race", [], [None], [-1], ["x"], {}, {"a": 1}, 10**20]


def test_schema_is_a_schema() -> None:
    jsonschema.Draft202012Validator.check_schema(load_schema())


def test_trace_survives_a_round_trip(tmp_path: Path) -> None:
    save_trace(SAMPLE, tmp_path / "deep" / "race.trace.json")
    assert load_trace(tmp_path / "deep" / "race.trace.json") == SAMPLE
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["race.trace.json"]


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(PLACES), st.sampled_from(ODD_VALUES))
def test_loader_agrees_with_jsonschema_on_any_odd_value(path: tuple[Any, ...], value: Any) -> None:
    broken = copy.deepcopy(SAMPLE)
    put(broken, path, value)
    if SCHEMA_VALIDATOR.is_valid(broken):
        # Only what a schema cannot say may still be wrong: columns of one length, rows within the batch, order.
        assert not re.search("must", refusal(broken)), f"{path} = {value!r}: {refusal(broken)}"
    else:
        with pytest.raises(TraceError):
            validate_trace(broken)


@settings(max_examples=100, deadline=None)
@given(st.sampled_from([path for path in PLACES if isinstance(path[-1], str)]))
def test_loader_agrees_with_jsonschema_on_any_missing_entry(path: tuple[Any, ...]) -> None:
    broken = copy.deepcopy(SAMPLE)
    without(broken, path)
    if SCHEMA_VALIDATOR.is_valid(broken):
        validate_trace(broken)
    else:
        with pytest.raises(TraceError, match=rf"must contain \['{path[-1]}'\]"):
            validate_trace(broken)


def shorten(trace: dict[str, Any]) -> None:
    trace["sides"][0]["tokens"]["id"].pop()


def turn_back(trace: dict[str, Any]) -> None:
    trace["sides"][1]["tokens"]["time_ns"].reverse()


def name_missing_row(trace: dict[str, Any]) -> None:
    trace["sides"][0]["tokens"]["row"][0] = 7


def end_before_start(trace: dict[str, Any]) -> None:
    trace["sides"][0]["phases"][0]["end_ns"] = trace["sides"][0]["phases"][0]["start_ns"] - 1


def drop_prompt(trace: dict[str, Any]) -> None:
    trace["prompt_ids"].pop()


def drop_parity(trace: dict[str, Any]) -> None:
    trace["parity"].pop()


def raise_version(trace: dict[str, Any]) -> None:
    trace["version"] = 2


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (shorten, "columns of different lengths"),
        (turn_back, "goes back in time"),
        (name_missing_row, "names row 7 of a race with 2 rows"),
        (end_before_start, "ends before it starts"),
        (drop_prompt, "1 rows but settings.batch is 2"),
        (drop_parity, "1 entries for 2 rows"),
        (raise_version, "version 2 is not known"),
    ],
)
def test_trace_is_refused_for_what_a_schema_cannot_say(damage: Any, words: str) -> None:
    broken = copy.deepcopy(SAMPLE)
    damage(broken)
    with pytest.raises(TraceError, match=words):
        validate_trace(broken)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"format": "other"}', "[" * 100_000, '{"a":' * 100_000])
def test_parse_refuses_what_is_no_trace(text: str) -> None:
    with pytest.raises(TraceError):
        parse_trace(text)


def sample_with(place: str, json_text: str) -> str:
    """The sample's text, with `json_text` as it stands in the place of a value."""
    document = copy.deepcopy(SAMPLE)
    put(document, tuple(int(key) if key.isdigit() else key for key in place.split(".")), "@here@")
    return json.dumps(document).replace('"@here@"', json_text)


NESTED = "[" * 900 + "]" * 900


@pytest.mark.parametrize(
    ("place", "json_text", "words"),
    [
        ("settings.batch", "1" + "0" * 400, "has more than 20 digits"),
        ("settings.seed", "9" * 5000, "has more than 20 digits"),
        ("settings.temperature", "-" + "9" * 5000, "has more than 20 digits"),
        ("sides.0.tokens.time_ns.0", "1e400", "is no finite number"),
        ("settings.temperature", "NaN", "NaN is no finite number"),
        ("settings.top_p", "-Infinity", "-Infinity is no finite number"),
        ("settings.batch", '2, "batch": 2', "two entries 'batch'"),
        ("sides.0.tokens.row.1", '"x"', r"sides\[0\]\.tokens\.row\[1\] must be integer, not 'x'"),
        ("sides.1.tokens.row.0", "-1", r"sides\[1\]\.tokens\.row\[0\] must be bigger than or equal to 0, not -1"),
        ("sides.0.memory.odd", "[]", r"sides\[0\]\.memory must not contain \{'odd'\}"),
        ("settings.schedule", NESTED, "settings.schedule must be one of"),
        ("sides.0.config.threads", NESTED, "threads must be integer or null"),
        ("version", NESTED, "version .* is not known"),
        ("version", "true", "version must be same as const definition: 1, not True"),
        ("settings.model", "[" * 200_000 + "]" * 200_000, "recursion"),
        ("settings.model", "7" * 20, "settings.model must be string"),
    ],
)
def test_hostile_text_is_a_trace_error(place: str, json_text: str, words: str) -> None:
    with pytest.raises(TraceError, match=words) as error:
        parse_trace(sample_with(place, json_text))
    assert len(str(error.value)) < 600, "an error is read by people"


def test_hundred_thousand_tokens_validate_in_two_seconds() -> None:
    long = copy.deepcopy(SAMPLE)
    count = 100_000
    long["sides"][0]["tokens"] = {
        "row": [0, 1] * (count // 2),
        "time_ns": list(range(count)),
        "id": [7] * count,
        "text": ["a"] * count,
        "after_end": [False] * count,
    }
    start_s = time.process_time()
    validate_trace(long)
    assert time.process_time() - start_s < 2


def test_writing_a_trace_needs_no_schema_library(tmp_path: Path) -> None:
    """A GPU host has none; it writes traces, and others read them."""
    code = (
        "import sys; sys.modules['fastjsonschema'] = None; import json, pathlib; "
        "from eet_demo.results.trace import save_trace; "
        "save_trace(json.loads(pathlib.Path(sys.argv[1]).read_text()), pathlib.Path(sys.argv[2]))"
    )
    out = tmp_path / "written.json"
    subprocess.run([sys.executable, "-c", code, SAMPLE_PATH, out], check=True, cwd=Path(__file__).parents[2])
    assert load_trace(out) == SAMPLE


def test_load_refuses_a_file_that_is_not_there_or_no_text(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match="cannot read"):
        load_trace(tmp_path / "none.json")
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(TraceError, match="cannot read"):
        load_trace(tmp_path / "binary")


def test_save_refuses_numbers_that_json_has_not(tmp_path: Path) -> None:
    broken = copy.deepcopy(SAMPLE)
    broken["parity"][0]["margin_at_divergence"] = float("nan")
    with pytest.raises(TraceError, match="cannot be written"):
        save_trace(broken, tmp_path / "race.json")
    assert list(tmp_path.iterdir()) == []
