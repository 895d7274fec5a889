"""The trace: the one format that the live view, replay, permalink, export, video and bench read and write.

`trace.schema.json` beside this file is the contract. `validate_trace` walks it with the keywords it uses (no
`jsonschema` at run time: a GPU host lacks it) and then checks what a schema cannot say: columns of one length, rows
within the batch, stamps in order.
"""

from __future__ import annotations

import functools
import itertools
import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from eet_demo.errors import TraceError
from eet_demo.files import write_atomically

SCHEMA_PATH = Path(__file__).with_name("trace.schema.json")

Trace = dict[str, Any]


@functools.cache
def load_schema() -> Mapping[str, Any]:
    """The JSON Schema of a trace."""
    schema: Mapping[str, Any] = json.loads(SCHEMA_PATH.read_text(encoding="utf-8"))
    return schema


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
        value = json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        raise TraceError(f"{name} is not JSON: {error}") from None
    return validate_trace(value)


def save_trace(trace: Trace, path: Path) -> None:
    """Validates and writes a trace, whole or not at all."""
    validate_trace(trace)
    write_atomically(path, json.dumps(trace, ensure_ascii=False, separators=(",", ":")) + "\n")


def validate_trace(value: Any) -> Trace:
    """`value` itself when it is a trace of version 1.

    Raises:
        TraceError: with the first place that breaks the contract, as a path like `sides[0].tokens.row`.
    """
    if isinstance(value, dict) and value.get("format") == "eet-race" and value.get("version", 1) != 1:
        raise TraceError(f"trace version {value['version']!r} is not known; this program reads version 1")
    _check(value, load_schema(), "trace")
    trace: Trace = value
    rows = len(trace["prompt_ids"])
    if rows != trace["settings"]["batch"]:
        raise TraceError(f"trace.prompt_ids has {rows} rows but settings.batch is {trace['settings']['batch']}")
    if trace["parity"] is not None and len(trace["parity"]) != rows:
        raise TraceError(f"trace.parity has {len(trace['parity'])} entries for {rows} rows")
    for index, side in enumerate(trace["sides"]):
        _check_side(side, rows, f"trace.sides[{index}]")
    return trace


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


_TYPES: Mapping[str, Any] = {
    "object": lambda value: isinstance(value, dict),
    "array": lambda value: isinstance(value, list),
    "string": lambda value: isinstance(value, str),
    "boolean": lambda value: isinstance(value, bool),
    "null": lambda value: value is None,
    "number": lambda value: _is_number(value),
    "integer": lambda value: _is_number(value) and value == int(value),
}


def _is_number(value: Any) -> bool:
    """True for a finite number; NaN and infinities are no JSON."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _check(value: Any, schema: Mapping[str, Any], where: str) -> None:
    """Checks `value` against the keywords that trace.schema.json uses; raises TraceError at the first breach."""
    if "$ref" in schema:
        _check(value, load_schema()["$defs"][schema["$ref"].removeprefix("#/$defs/")], where)
        return
    if "const" in schema and not _same(value, schema["const"]):
        raise TraceError(f"{where} must be {schema['const']!r}, not {_shown(value)}")
    if "enum" in schema and not any(_same(value, choice) for choice in schema["enum"]):
        raise TraceError(f"{where} must be one of {schema['enum']}, not {_shown(value)}")
    if "type" in schema:
        types = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
        if not any(_TYPES[name](value) for name in types):
            raise TraceError(f"{where} must be of type {' or '.join(types)}, not {_shown(value)}")
    if "minimum" in schema and _is_number(value) and value < schema["minimum"]:
        raise TraceError(f"{where} must be at least {schema['minimum']}, not {_shown(value)}")
    if isinstance(value, list):
        _check_array(value, schema, where)
    if isinstance(value, dict):
        _check_object(value, schema, where)


def _check_array(value: list[Any], schema: Mapping[str, Any], where: str) -> None:
    if len(value) < schema.get("minItems", 0):
        raise TraceError(f"{where} must have at least {schema['minItems']} entries, not {len(value)}")
    if "items" in schema:
        for index, item in enumerate(value):
            _check(item, schema["items"], f"{where}[{index}]")


def _check_object(value: dict[str, Any], schema: Mapping[str, Any], where: str) -> None:
    for name in schema.get("required", ()):
        if name not in value:
            raise TraceError(f"{where} lacks {name!r}")
    properties = schema.get("properties", {})
    patterns = schema.get("patternProperties", {})
    for name, item in value.items():
        schemas = [properties[name]] if name in properties else []
        schemas += [patterns[pattern] for pattern in patterns if re.search(pattern, name)]
        if not schemas:
            extra = schema.get("additionalProperties", True)
            if extra is False:
                raise TraceError(f"{where} has an unknown entry {name!r}")
            schemas = [extra] if isinstance(extra, dict) else []
        for found in schemas:
            _check(item, found, f"{where}.{name}")


def _same(value: Any, constant: Any) -> bool:
    """JSON equality: true is not 1."""
    return bool(value == constant) and isinstance(value, bool) == isinstance(constant, bool)


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
