"""The header of a GGUF file: scalar metadata and where each tensor's bytes lie. No `gguf` package, no tensor data.

An engine that reads packed weights needs no vocabulary, which is most of what the package's reader spends its time on.

The format (github.com/ggml-org/ggml, docs/gguf.md): magic, version, counts of tensors and metadata; metadata as
(key, type, value); tensors as (name, extents fastest first, type, offset); then, aligned, the data.
"""

from __future__ import annotations

import math
import mmap
import struct
from dataclasses import dataclass
from pathlib import Path

from eet_demo.errors import CheckpointError

TYPES = {0: "F32", 1: "F16", 2: "Q4_0", 3: "Q4_1", 6: "Q5_0", 7: "Q5_1", 8: "Q8_0", 10: "Q2_K", 11: "Q3_K",
         12: "Q4_K", 13: "Q5_K", 14: "Q6_K", 20: "IQ4_NL", 23: "IQ4_XS", 30: "BF16", 39: "MXFP4"}  # fmt: skip
"""ggml's tensor types that released models use; a type without a name here is shown as its number."""

BLOCKS = {"F32": (1, 4), "F16": (1, 2), "BF16": (1, 2), "Q4_0": (32, 18), "Q4_1": (32, 20), "Q8_0": (32, 34)}
"""Values and bytes of a block, of the types whose data this project reads as they are."""

_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9
_MAX_DIMS = 4
_VERSIONS = (2, 3)

Scalar = int | float | bool | str


@dataclass(frozen=True)
class GgufEntry:
    """A tensor's place: `shape` in C order, slowest first; `offset` from the file's start."""

    type: str
    shape: tuple[int, ...]
    offset: int


@dataclass(frozen=True)
class GgufHeader:
    """`values` holds the scalars and strings of the metadata; arrays are passed over."""

    values: dict[str, Scalar]
    tensors: dict[str, GgufEntry]


def read_header(path: Path) -> GgufHeader:
    """Raises CheckpointError for a file that is not a GGUF, or is cut short, or names bytes it does not have."""
    try:
        with path.open("rb") as file:
            magic = file.read(4)
            if magic != b"GGUF":
                raise CheckpointError(f"{path.name} is not a GGUF file: it starts with {magic!r} instead of b'GGUF'")
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                return _Reader(data).header()
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}") from None
    except (ValueError, struct.error, UnicodeDecodeError, OverflowError) as error:
        raise CheckpointError(f"{path.name} is truncated or damaged ({error}); fetch it again") from None


class _Reader:
    """Walks the header; every read is within the file, or ValueError."""

    def __init__(self, data: mmap.mmap) -> None:
        self._data, self._size, self._at = data, len(data), 4

    def header(self) -> GgufHeader:
        version = self._number("I")
        if version not in _VERSIONS:
            raise ValueError(f"version {version}; read are {' and '.join(map(str, _VERSIONS))}")
        tensors, pairs = int(self._number("Q")), int(self._number("Q"))
        values = {}
        for _ in range(pairs):
            key = self._string()
            value = self._value(int(self._number("I")))
            if value is not None:
                values[key] = value
        entries = dict(self._tensor() for _ in range(tensors))
        alignment = values.get("general.alignment", 32)
        if not isinstance(alignment, int) or alignment < 1:
            raise ValueError(f"alignment {alignment!r}")
        start = -(-self._at // alignment) * alignment
        return GgufHeader(values, {name: self._placed(name, entry, start) for name, entry in entries.items()})

    def _tensor(self) -> tuple[str, GgufEntry]:
        name = self._string()
        dims = int(self._number("I"))
        if dims > _MAX_DIMS:
            raise ValueError(f"{name} has {dims} dimensions")
        shape = tuple(int(self._number("Q")) for _ in range(dims))[::-1]
        code = int(self._number("I"))
        return name, GgufEntry(TYPES.get(code, f"type {code}"), shape, int(self._number("Q")))

    def _placed(self, name: str, entry: GgufEntry, start: int) -> GgufEntry:
        """The entry with its offset from the file's start, checked against the file's size where its size is known."""
        if entry.type in BLOCKS and entry.shape:
            values, size = BLOCKS[entry.type]
            if entry.shape[-1] % values:
                raise ValueError(f"{name} has rows of {entry.shape[-1]} values in blocks of {values}")
            end = start + entry.offset + math.prod(entry.shape) // values * size
            if end > self._size:
                raise ValueError(f"{name} ends at byte {end} of {self._size}")
        return GgufEntry(entry.type, entry.shape, start + entry.offset)

    def _value(self, code: int) -> Scalar | None:
        if code == _STRING:
            return self._string()
        if code != _ARRAY:
            return self._number(self._scalar(code))
        inner, count = int(self._number("I")), int(self._number("Q"))
        if inner == _STRING:
            for _ in range(count):
                self._skip(int(self._number("Q")))
        else:
            self._skip(count * struct.calcsize(self._scalar(inner)))
        return None

    def _scalar(self, code: int) -> str:
        if code not in _SCALARS:
            raise ValueError(f"metadata of unknown type {code} at byte {self._at}")
        return _SCALARS[code]

    def _number(self, format: str) -> Scalar:
        value: Scalar
        (value,) = struct.unpack_from("<" + format, self._data, self._at)
        self._at += struct.calcsize(format)
        return value

    def _string(self) -> str:
        start = self._at + 8
        self._skip(int(self._number("Q")))
        return self._data[start : self._at].decode("utf-8")

    def _skip(self, count: int) -> None:
        if count > self._size - self._at:
            raise ValueError(f"{count} bytes wanted at byte {self._at} of {self._size}")
        self._at += count
