"""Reading a Hugging Face model folder: config.json and safetensors, straight into the caller's arrays.

The format (https://huggingface.co/docs/safetensors): 8 bytes little-endian header length, a JSON header, raw
tensors. The library's own reader maps whole files, which then count as the process's memory; plain reads of a few
megabytes do not.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from eet_demo.engine.blocks import BLOCK_BYTES, BLOCK_VALUES, WeightFormat, quantise_q8_0
from eet_demo.engine.dtypes import from_bfloat16
from eet_demo.engine.families import spec_from_config, unknown_tensors, weights_of
from eet_demo.engine.gguf_weights import GgufWeights
from eet_demo.engine.spec import ModelSpec
from eet_demo.engine.weights import Part, Weight
from eet_demo.errors import CheckpointError, UnsupportedError

READ_BYTES = 4 << 20
"""Bytes read at a time: large enough for the disk, small beside the plan."""

MAX_HEADER_BYTES = 100 << 20
"""The format's own limit on a header."""

POSITIONS = "embed.positions"
"""The one matrix that is only a table of rows."""

PREFIXES = ("", "transformer.", "model.")
"""What a checkpoint may put before the names its model class uses."""

_DTYPES: dict[str, np.dtype[Any]] = {
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype("<u2"),
    "F64": np.dtype("<f8"),
}


@dataclass(frozen=True)
class TensorEntry:
    """Where a tensor's bytes lie."""

    file: Path
    offset: int
    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class RowBlock:
    """Rows `start .. start + len(values)` of one part of a weight: float32 `(n, columns)`, or `(n,)` of a vector."""

    part: int
    start: int
    values: NDArray[np.float32]


@dataclass(frozen=True)
class RawBlock:
    """Rows `start .. start + len(raw)` of one part of a quantised matrix: uint8 `(n, bytes a row)`, see blocks.py."""

    part: int
    start: int
    raw: NDArray[np.uint8]


class Checkpoint:
    """A model folder, opened: its spec and the place of every tensor; values are read only when asked for.

    `weights` says how the engine stores matrices: `dense`; `q8_0`, quantised as they are read; `packed`, the blocks of
    the folder's .gguf file as they are.
    """

    def __init__(self, folder: Path, weights: str = "dense") -> None:
        """Raises CheckpointError for a folder without a readable config or with broken safetensors files."""
        self.folder = folder
        self._weights = weights
        self.config = read_json(folder / "config.json")
        self.spec: ModelSpec = spec_from_config(self.config)
        self._entries: dict[str, TensorEntry] = {}
        for file in _safetensors_files(folder):
            self._entries.update(read_header(file))
        self._prefix = self._find_prefix()

    def check(self) -> None:
        """Raises CheckpointError naming every missing, misshapen or superfluous tensor."""
        faults = []
        for weight in weights_of(self.spec):
            for part in weight.parts:
                entry = self._find(part)
                expected = _expected_shape(weight, part)
                if entry is None:
                    faults.append(f"{part.tensor} is missing")
                elif entry.dtype not in _DTYPES:
                    faults.append(f"{part.tensor} is stored as {entry.dtype}; read are {', '.join(_DTYPES)}")
                elif entry.shape != expected:
                    faults.append(f"{part.tensor} has shape {entry.shape}, the config asks for {expected}")
        own_names = (name.removeprefix(self._prefix) for name in self._entries)
        faults += [f"{name} is in the files but not in the config" for name in unknown_tensors(self.spec, own_names)]
        if faults:
            shown = "; ".join(faults[:5]) + (f"; and {len(faults) - 5} more" if len(faults) > 5 else "")
            raise CheckpointError(f"{self.folder.name}: {shown}")

    @cached_property
    def formats(self) -> dict[str, WeightFormat]:
        """How the engine stores each weight, by canonical name; vectors and learned positions are dense.

        Raises:
            UnsupportedError: a matrix that cannot be stored that way, named.
            CheckpointError: a .gguf that is broken or contradicts the config.
        """
        return {weight.name: self._format_of(weight) for weight in weights_of(self.spec)}

    def raw_blocks(self, weight: Weight) -> Iterator[RawBlock]:
        """The blocks of a matrix whose format is not dense, part by part, a few megabytes at a time.

        Raises:
            CheckpointError: a scale that is not finite.
        """
        format = self.formats[weight.name]
        if self._weights == "q8_0":
            for block in self.blocks(weight):
                raw = quantise_q8_0(block.values)
                self._check_scales(weight.parts[block.part], raw, format)
                yield RawBlock(block.part, block.start, raw)
            return
        step = max(16, READ_BYTES // weight.columns // 16 * 16)
        for index, part in enumerate(weight.parts):
            start = 0
            for raw in self._gguf.raw_rows(part, format, weight.columns, step):
                self._check_scales(part, raw, format)
                yield RawBlock(index, start, raw)
                start += len(raw)

    def blocks(self, weight: Weight) -> Iterator[RowBlock]:
        """The weight's rows as float32, part by part, a few megabytes at a time.

        Raises:
            CheckpointError: NaN or infinity among the values; names the tensor.
        """
        for block in self._blocks(weight):
            if not np.isfinite(block.values).all():
                self._refuse_numbers(weight.parts[block.part])
            yield block

    def _blocks(self, weight: Weight) -> Iterator[RowBlock]:
        for index, part in enumerate(weight.parts):
            entry = self._find(part)
            if entry is None:
                raise CheckpointError(f"{self.folder.name}: {part.tensor} is missing")
            if part.transposed:
                matrix = self._read(entry, 0, entry.shape[0]).reshape(entry.shape).T
                step = max(16, READ_BYTES // (4 * weight.columns) // 16 * 16)
                for start in range(0, part.rows, step):
                    yield RowBlock(index, start, part.values(np.ascontiguousarray(matrix[start : start + step])))
                continue
            columns = max(1, weight.columns)
            step = max(16, READ_BYTES // (4 * columns) // 16 * 16)
            for start in range(0, part.rows, step):
                rows = part.source_rows(start, min(start + step, part.rows))
                stored = self._read(entry, int(rows[0]), int(rows[-1]) + 1).reshape(-1, columns)
                values = part.values(stored if len(stored) == len(rows) else stored[rows - rows[0]])
                yield RowBlock(index, start, values if weight.is_matrix else values[:, 0])

    @cached_property
    def _gguf(self) -> GgufWeights:
        return GgufWeights(self.folder, self.spec)

    def _format_of(self, weight: Weight) -> WeightFormat:
        if self._weights == "dense" or not weight.is_matrix or weight.name == POSITIONS:
            return "dense"
        if self._weights == "packed":
            return self._gguf.format_of(weight)
        if weight.columns % BLOCK_VALUES:
            raise UnsupportedError(
                f"{weight.parts[0].tensor} has {weight.columns} columns; weights 'q8_0' are stored in blocks of "
                f"{BLOCK_VALUES} along a row"
            )
        return "q8_0"

    def _check_scales(self, part: Part, raw: NDArray[np.uint8], format: WeightFormat) -> None:
        header = 4 if format == "q4_1" else 2
        scales = np.ascontiguousarray(raw.reshape(-1, BLOCK_BYTES[format])[:, :header]).view(np.float16)
        if not np.isfinite(scales).all():
            self._refuse_numbers(part)

    def _refuse_numbers(self, part: Part) -> NoReturn:
        raise CheckpointError(f"{self.folder.name}: {part.tensor} holds NaN or infinity")

    def _read(self, entry: TensorEntry, start: int, stop: int) -> NDArray[np.float32]:
        """Rows `start .. stop` of the leading axis, flat, as float32."""
        dtype = _DTYPES[entry.dtype]
        row = math.prod(entry.shape[1:])
        raw = np.empty((stop - start) * row, dtype)
        with open(entry.file, "rb", buffering=0) as file:
            file.seek(entry.offset + start * row * dtype.itemsize)
            view = raw.view(np.uint8).data
            done = 0
            while done < len(view):
                count = file.readinto(view[done:])
                if not count:
                    raise CheckpointError(f"{entry.file.name} ends inside a tensor: the download is truncated")
                done += count
        if entry.dtype == "BF16":
            raw = from_bfloat16(raw)
        values: NDArray[np.float32] = raw.astype(np.float32, copy=False)
        return values

    def _find(self, part: Part) -> TensorEntry | None:
        """The part's tensor; heads stand outside the prefix of the model's body."""
        return self._entries.get(self._prefix + part.tensor, self._entries.get(part.tensor))

    def _find_prefix(self) -> str:
        first = weights_of(self.spec)[0].parts[0].tensor
        for prefix in PREFIXES:
            if prefix + first in self._entries:
                return prefix
        raise CheckpointError(f"{self.folder.name} holds no tensor {first}: not a {self.spec.family} checkpoint")


def _expected_shape(weight: Weight, part: Part) -> tuple[int, ...]:
    if not weight.is_matrix:
        return (part.tensor_rows,)
    return (weight.columns, part.tensor_rows) if part.transposed else (part.tensor_rows, weight.columns)


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file. Raises CheckpointError."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"{path.parent} has no {path.name}: not a model folder") from None
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise CheckpointError(f"{path} holds no JSON object")
    return value


def _safetensors_files(folder: Path) -> list[Path]:
    index = folder / "model.safetensors.index.json"
    if not index.exists():
        files = [folder / "model.safetensors"]
    else:
        names = read_json(index).get("weight_map")
        if not isinstance(names, dict) or not all(str(name).endswith(".safetensors") for name in names.values()):
            raise CheckpointError(f"{index} has no weight_map from tensors to .safetensors files")
        files = [folder / Path(name).name for name in sorted(set(map(str, names.values())))]
    for file in files:
        if not os.path.isfile(file):
            raise CheckpointError(f"{folder.name} has no {file.name}; only safetensors are read, never pickle")
    return files


def read_header(path: Path) -> dict[str, TensorEntry]:
    """Every tensor of a safetensors file by name. Raises CheckpointError for a broken header."""
    size = os.path.getsize(path)
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > min(size - 8, MAX_HEADER_BYTES):
            raise CheckpointError(f"{path.name} is truncated or not a safetensors file ({size} bytes)")
        try:
            header = json.loads(file.read(length))
            items = [(name, item) for name, item in header.items() if name != "__metadata__"]
            return {name: _entry(path, name, item, 8 + length, size) for name, item in items}
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise CheckpointError(f"{path.name} has a broken safetensors header: {error}") from None


def _entry(path: Path, name: str, item: dict[str, Any], base: int, size: int) -> TensorEntry:
    """One header line, checked: the bytes it names lie in the file and are as many as its shape needs."""
    dtype, shape = item["dtype"], tuple(item["shape"])
    start, stop = item["data_offsets"]
    if any(type(extent) is not int or extent < 0 for extent in (*shape, start, stop)):
        raise ValueError(f"{name} has shape {shape} at bytes {start} to {stop}")
    if dtype not in _DTYPES:
        return TensorEntry(path, base + start, str(dtype), shape)
    if stop - start != math.prod(shape) * _DTYPES[dtype].itemsize:
        raise ValueError(f"{name} names {stop - start} bytes for shape {shape} of {dtype}")
    if base + stop > size:
        raise CheckpointError(f"{path.name} ends before {name}: the download is truncated")
    return TensorEntry(path, base + start, dtype, shape)
