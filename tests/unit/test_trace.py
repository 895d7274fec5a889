"""The trace's schema is the contract: our own walker and jsonschema must agree about every trace, whole or broken."""

from __future__ import annotations

import copy
import json
import re
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
HANDLED = {
    *("$schema", "$id", "$defs", "$ref", "title", "description", "type", "const", "enum", "minimum"),
    *("required", "properties", "patternProperties", "additionalProperties", "items", "minItems"),
}


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of every value in a JSON document, columns sampled at their first entry only."""
    yield path
    if isinstance(value, dict):
        for key, item in value.items():
            yield from places(item, (*path, key))
    elif isinstance(value, list) and value:
        yield from places(value[0], (*path, 0))


def refusal(trace: Any) -> str:
    """What the walker says against a trace; empty when it takes it."""
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


def test_schema_is_a_schema_of_keywords_that_the_walker_knows() -> None:
    jsonschema.Draft202012Validator.check_schema(load_schema())

    def walk(schema: Any) -> None:
        assert set(schema) <= HANDLED, f"the walker does not know {set(schema) - HANDLED}"
        for key in ("properties", "patternProperties", "$defs"):
            for item in schema.get(key, {}).values():
                walk(item)
        for key in ("items", "additionalProperties"):
            if isinstance(schema.get(key), dict):
                walk(schema[key])

    walk(load_schema())


def test_trace_survives_a_round_trip(tmp_path: Path) -> None:
    save_trace(SAMPLE, tmp_path / "deep" / "race.trace.json")
    assert load_trace(tmp_path / "deep" / "race.trace.json") == SAMPLE
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["race.trace.json"]


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(PLACES), st.sampled_from(ODD_VALUES))
def test_walker_agrees_with_jsonschema_on_any_odd_value(path: tuple[Any, ...], value: Any) -> None:
    broken = copy.deepcopy(SAMPLE)
    put(broken, path, value)
    if SCHEMA_VALIDATOR.is_valid(broken):
        # Only what a schema cannot say may still be wrong: columns of one length, rows within the batch, order.
        assert not re.search("must be|lacks", refusal(broken)), f"{path} = {value!r}: {refusal(broken)}"
    else:
        with pytest.raises(TraceError):
            validate_trace(broken)


@settings(max_examples=100, deadline=None)
@given(st.sampled_from([path for path in PLACES if isinstance(path[-1], str)]))
def test_walker_agrees_with_jsonschema_on_any_missing_entry(path: tuple[Any, ...]) -> None:
    broken = copy.deepcopy(SAMPLE)
    without(broken, path)
    if SCHEMA_VALIDATOR.is_valid(broken):
        validate_trace(broken)
    else:
        with pytest.raises(TraceError, match="lacks"):
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


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"format": "other"}', "[" * 100_000, '{"a": NaN}'])
def test_parse_refuses_what_is_no_trace(text: str) -> None:
    with pytest.raises(TraceError):
        parse_trace(text)


def test_load_refuses_a_file_that_is_not_there_or_no_text(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match="cannot read"):
        load_trace(tmp_path / "none.json")
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(TraceError, match="cannot read"):
        load_trace(tmp_path / "binary")


def test_save_refuses_a_broken_trace_and_writes_nothing(tmp_path: Path) -> None:
    with pytest.raises(TraceError):
        save_trace({**SAMPLE, "sides": []}, tmp_path / "race.json")
    assert list(tmp_path.iterdir()) == []
