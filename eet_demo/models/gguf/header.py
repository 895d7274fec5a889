"""The header of a GGUF file: its metadata and where each tensor's bytes lie. No `gguf` package, no tensor data.

The format (github.com/ggml-org/ggml, docs/gguf.md): magic, version, counts of tensors and metadata; metadata as
(key, type, value); tensors as (name, extents fastest first, type, offset); then, aligned, the data.
"""

from __future__ import annotations

import math
import mmap
import struct
from dataclasses import dataclass
from pathlib import Path

from eet_demo.errors import CheckpointError, UnsupportedError

MAGIC = b"GGUF"

TYPES = {0: "F32", 1: "F16", 2: "Q4_0", 3: "Q4_1", 6: "Q5_0", 7: "Q5_1", 8: "Q8_0", 9: "Q8_1", 10: "Q2_K", 11: "Q3_K",
         12: "Q4_K", 13: "Q5_K", 14: "Q6_K", 15: "Q8_K", 16: "IQ2_XXS", 17: "IQ2_XS", 18: "IQ3_XXS", 19: "IQ1_S",
         20: "IQ4_NL", 21: "IQ3_S", 22: "IQ2_S", 23: "IQ4_XS", 24: "I8", 25: "I16", 26: "I32", 27: "I64", 28: "F64",
         29: "IQ1_M", 30: "BF16", 34: "TQ1_0", 35: "TQ2_0", 39: "MXFP4", 40: "NVFP4", 41: "Q1_0"}  # fmt: skip
"""ggml's tensor types; a type without a name here is shown as its number."""

BLOCKS = {"F32": (1, 4), "F16": (1, 2), "BF16": (1, 2), "F64": (1, 8), "Q4_0": (32, 18), "Q4_1": (32, 20),
          "Q5_0": (32, 22), "Q5_1": (32, 24), "Q8_0": (32, 34), "Q2_K": (256, 84), "Q3_K": (256, 110),
          "Q4_K": (256, 144), "Q5_K": (256, 176), "Q6_K": (256, 210), "IQ2_XXS": (256, 66), "IQ2_XS": (256, 74),
          "IQ3_XXS": (256, 98), "IQ1_S": (256, 50), "IQ4_NL": (32, 18), "IQ3_S": (256, 110), "IQ2_S": (256, 82),
          "IQ4_XS": (256, 136), "IQ1_M": (256, 56), "TQ1_0": (256, 54), "TQ2_0": (256, 66),
          "MXFP4": (32, 17)}  # fmt: skip
"""Values and bytes of a block, of the types whose values can be read."""

_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9
_MAX_DIMS = 4
_MAX_DEPTH = 8
_VERSIONS = (2, 3)

Scalar = int | float | bool | str
Value = Scalar | list["Value"]


@dataclass(frozen=True)
class GgufEntry:
    """A tensor's place: `shape` in C order, slowest first; `offset` from the file's start."""

    type: str
    shape: tuple[int, ...]
    offset: int

    @property
    def nbytes(self) -> int:
        """Of a type in BLOCKS."""
        values, size = BLOCKS[self.type]
        return math.prod(self.shape) // values * size


@dataclass(frozen=True)
class GgufHeader:
    """`values` holds the metadata: scalars and strings, and arrays where they were asked for."""

    values: dict[str, Value]
    tensors: dict[str, GgufEntry]


def is_gguf(path: Path) -> bool:
    """Whether a file begins as a GGUF does, whatever it is called."""
    try:
        with path.open("rb") as file:
            return file.read(len(MAGIC)) == MAGIC
    except OSError:
        return False


def read_header(path: Path, arrays: bool = True) -> GgufHeader:
    """Without `arrays` they are passed over: a vocabulary is most of what there is to read.

    Raises:
        CheckpointError: a file that is not a GGUF, or is cut short, or names bytes it does not have.
        UnsupportedError: another version or byte order.
    """
    try:
        with path.open("rb") as file:
            magic = file.read(len(MAGIC))
            if magic != MAGIC:
                raise CheckpointError(f"{path.name} is not a GGUF file: it starts with {magic!r} instead of {MAGIC!r}")
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                return _Reader(data, arrays, path.name).header()
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}") from None
    except (ValueError, struct.error, OverflowError, MemoryError) as error:
        raise CheckpointError(f"{path.name} is truncated or damaged ({error}); fetch it again") from None


class _Reader:
    """Walks the header; every read is within the file, or ValueError."""

    def __init__(self, data: mmap.mmap, arrays: bool, name: str) -> None:
        self._data, self._size, self._at, self._arrays, self._name = data, len(data), len(MAGIC), arrays, name

    def header(self) -> GgufHeader:
        self._check_version(int(self._number("I")))
        tensors, pairs = int(self._number("Q")), int(self._number("Q"))
        values: dict[str, Value] = {}
        for _ in range(pairs):
            key = self._string()
            if key in values:
                raise ValueError(f"{key} stands there twice")
            value = self._value(int(self._number("I")))
            if value is not None:
                values[key] = value
        entries: dict[str, GgufEntry] = {}
        for _ in range(tensors):
            name, entry = self._tensor()
            if name in entries:
                raise ValueError(f"tensor {name} stands there twice")
            entries[name] = entry
        alignment = values.get("general.alignment", 32)
        if type(alignment) is not int or alignment < 1:
            raise ValueError(f"alignment {alignment!r}")
        start = -(-self._at // alignment) * alignment
        return GgufHeader(values, {name: self._placed(name, entry, start) for name, entry in entries.items()})

    def _check_version(self, version: int) -> None:
        if version in _VERSIONS:
            return
        if version & 0xFFFF == 0:
            raise UnsupportedError(f"{self._name} is a big-endian GGUF; little-endian ones are read")
        read = " and ".join(map(str, _VERSIONS))
        raise UnsupportedError(f"{self._name} is a GGUF of version {version}; versions {read} are read")

    def _tensor(self) -> tuple[str, GgufEntry]:
        """Extents of 1 that only fill up the dimensions are left out, as ggml takes a missing one for 1."""
        name = self._string()
        dims = int(self._number("I"))
        if dims > _MAX_DIMS:
            raise ValueError(f"{name} has {dims} dimensions")
        shape = tuple(int(self._number("Q")) for _ in range(dims))[::-1]
        while len(shape) > 1 and shape[0] == 1:
            shape = shape[1:]
        shape = shape or (1,)
        code = int(self._number("I"))
        return name, GgufEntry(TYPES.get(code, f"type {code}"), shape, int(self._number("Q")))

    def _placed(self, name: str, entry: GgufEntry, start: int) -> GgufEntry:
        """The entry with its offset from the file's start, checked against the file's size where its size is known."""
        placed = GgufEntry(entry.type, entry.shape, start + entry.offset)
        if entry.type in BLOCKS and entry.shape:
            values = BLOCKS[entry.type][0]
            if entry.shape[-1] % values:
                raise ValueError(f"{name} has rows of {entry.shape[-1]} values in blocks of {values}")
            if (end := placed.offset + placed.nbytes) > self._size:
                raise ValueError(f"{name} ends at byte {end} of {self._size}")
        return placed

    def _value(self, code: int, depth: int = 0) -> Value | None:
        if code == _STRING:
            return self._string()
        if code != _ARRAY:
            return self._number(self._scalar(code))
        inner, count = int(self._number("I")), int(self._number("Q"))
        if depth == _MAX_DEPTH:
            raise ValueError(f"arrays in arrays, {depth} deep, at byte {self._at}")
        if inner not in (_STRING, _ARRAY):
            return self._numbers(self._scalar(inner), count)
        if inner == _STRING and not self._arrays:
            for _ in range(count):
                self._skip(int(self._number("Q")))
            return None
        found = [self._value(inner, depth + 1) for _ in range(count)]
        return [value for value in found if value is not None] if self._arrays else None

    def _numbers(self, format: str, count: int) -> Value | None:
        start = self._at
        self._skip(count * struct.calcsize(format))
        return list(struct.unpack_from(f"<{count}{format}", self._data, start)) if self._arrays else None

    def _scalar(self, code: int) -> str:
        if code not in _SCALARS:
            raise ValueError(f"metadata of unknown type {code} at byte {self._at}")
        return _SCALARS[code]

    def _number(self, format: str) -> int | float | bool:
        value: int | float | bool
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
