"""The trace: the one format that the live view, replay and bench read and write.

`trace.schema.json` beside this file is the contract. Whoever loads a trace has it checked against the schema, and then
for what a schema cannot say: columns of one length, rows within the batch, stamps in order. The schema's library is
imported there alone: a GPU host, which only writes traces, need not have it.
"""

from __future__ import annotations

import functools
import itertools
import json
import math
import reprlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from eet_demo.declared import Setting, settings_of
from eet_demo.errors import TraceError
from eet_demo.files import write_atomically
from eet_demo.records import RaceSettings

SCHEMA_PATH = Path(__file__).with_name("trace.schema.json")

Trace = dict[str, Any]


@functools.cache
def load_schema() -> Mapping[str, Any]:
    """The JSON Schema of a trace, its settings as they are declared."""
    schema: dict[str, Any] = json.loads(SCHEMA_PATH.read_text(encoding="utf-8"))
    settings = settings_of(RaceSettings)
    schema["properties"]["settings"] |= {
        "type": "object",
        "required": [name for name, setting in settings.items() if setting.in_every_trace],
        "properties": {name: _setting_schema(setting) for name, setting in settings.items()},
    }
    return schema


def _setting_schema(setting: Setting) -> dict[str, Any]:
    """Type and lowest value; a trace may come from a machine whose owner allows more."""
    if setting.choices:
        return {"enum": list(setting.choices)}
    if setting.kind is tuple:
        return {"type": "array", "items": {"type": "string"}, "minItems": 1}
    kind = {str: "string", bool: "boolean", int: "integer", float: "number"}[setting.kind]
    lowest = {} if setting.least is None else {"minimum": 0 if setting.or_zero else setting.least}
    return {"type": [kind, "null"] if setting.optional else kind, **lowest}


def load_trace(path: Path) -> Trace:
    """Reads and validates a trace.

    Raises:
        TraceError: no such file, no JSON, or not a trace; the message names the first place that breaks the schema.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise TraceError(f"cannot read the trace {path}: {error}") from None
    return parse_trace(text, str(path))


def parse_trace(text: str, name: str = "the trace") -> Trace:
    """A trace from its JSON text, validated. Raises TraceError."""
    try:
        value = json.loads(
            text, parse_int=_integer, parse_float=_number, parse_constant=_number, object_pairs_hook=_object
        )
    except (ValueError, RecursionError) as error:
        raise TraceError(f"{name} is not JSON that a trace may hold: {error}") from None
    return validate_trace(value)


def save_trace(trace: Trace, path: Path) -> None:
    """Writes a trace of this program's own, whole or not at all. Raises TraceError for NaN, which JSON has not."""
    try:
        text = json.dumps(trace, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    except ValueError as error:
        raise TraceError(f"the trace cannot be written: {error}") from None
    write_atomically(path, text + "\n")


def validate_trace(value: Any) -> Trace:
    """`value` itself when it is a trace of version 1.

    Raises:
        TraceError: with the first place that breaks the contract, as a path like `sides[0].tokens.row`.
    """
    if isinstance(value, dict) and value.get("format") == "eet-race" and value.get("version", 1) != 1:
        raise TraceError(f"trace version {_shown(value['version'])} is not known; this program reads version 1")
    _check_schema(value)
    trace: Trace = value
    rows = len(trace["prompt_ids"])
    if rows != trace["settings"]["batch"]:
        raise TraceError(f"trace.prompt_ids has {rows} rows but settings.batch is {trace['settings']['batch']}")
    if trace["parity"] is not None and len(trace["parity"]) != rows:
        raise TraceError(f"trace.parity has {len(trace['parity'])} entries for {rows} rows")
    for index, side in enumerate(trace["sides"]):
        _check_side(side, rows, f"trace.sides[{index}]")
    return trace


@functools.cache
def _schema_check() -> Callable[..., object]:
    """The schema as a function: compiled to Python, 100,000 tokens take it a quarter of a second."""
    import fastjsonschema

    check: Callable[..., object] = fastjsonschema.compile(dict(load_schema()))
    return check


def _check_schema(value: Any) -> None:
    from fastjsonschema import JsonSchemaValueException

    try:
        _schema_check()(value, name_prefix="trace")
    except JsonSchemaValueException as error:
        given = "" if isinstance(error.value, dict | list) else f", not {_shown(error.value)}"
        raise TraceError(_cut(error.message) + given) from None


def _check_side(side: Mapping[str, Any], rows: int, where: str) -> None:
    for table in ("tokens", "memory", "progress"):
        columns = side.get(table, {})
        lengths = {name: len(column) for name, column in columns.items()}
        if len(set(lengths.values())) > 1:
            raise TraceError(f"{where}.{table} has columns of different lengths: {lengths}")
        times = columns.get("time_ns", [])
        if any(later < earlier for earlier, later in itertools.pairwise(times)):
            raise TraceError(f"{where}.{table}.time_ns goes back in time")
    if any(row >= rows for row in side["tokens"]["row"]):
        raise TraceError(f"{where}.tokens.row names row {max(side['tokens']['row'])} of a race with {rows} rows")
    for phase in side["phases"]:
        if phase["end_ns"] < phase["start_ns"]:
            raise TraceError(f"{where}: phase {phase['name']} ends before it starts")


DIGITS = 20
"""Of the longest integer in a trace: a seed is below 2**64, and so is every count of bytes and nanoseconds."""


def _integer(numeral: str) -> int:
    if len(numeral.lstrip("-")) > DIGITS:
        raise ValueError(f"the integer {_cut(numeral)} has more than {DIGITS} digits")
    return int(numeral)


def _number(numeral: str) -> float:
    number = float(numeral)
    if not math.isfinite(number):
        raise ValueError(f"{_cut(numeral)} is no finite number")
    return number


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise ValueError(f"an object has two entries {_cut(name)!r}")
        found[name] = value
    return found


def _shown(value: Any) -> str:
    return _cut(reprlib.repr(value))


def _cut(text: str, most: int = 200) -> str:
    return text if len(text) <= most else f"{text[: most - 3]}..."
