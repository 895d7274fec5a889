"""The weight files of a model folder: which of them count, and where each tensor lies in them.

Which ones count is transformers' rule (`_get_resolved_checkpoint_files` in its modeling_utils.py): `model.safetensors`,
else the shards that `model.safetensors.index.json` names, all tensors of each; whatever else lies there does not.
The engine, a download and an estimate all ask here.

The format (https://huggingface.co/docs/safetensors): 8 bytes little-endian header length, a JSON header, raw
tensors. The library's own reader maps whole files, which then count as the process's memory; plain reads of a few
megabytes do not.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eet_demo.engine.dtypes import from_bfloat16
from eet_demo.errors import CheckpointError

WEIGHTS, WEIGHTS_INDEX = "model.safetensors", "model.safetensors.index.json"

READ_BYTES = 4 << 20
"""Bytes read at a time: large enough for the disk, small beside the plan."""

MAX_HEADER_BYTES = 100 << 20
"""The format's own limit on a header."""

DTYPES: Mapping[str, np.dtype[Any]] = {
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype("<u2"),
    "F64": np.dtype("<f8"),
}
"""What a tensor may be stored as; each tensor has its own."""


@dataclass(frozen=True)
class TensorEntry:
    """Where a tensor's bytes lie."""

    file: Path
    offset: int
    dtype: str
    shape: tuple[int, ...]


def first_file(has: Callable[[str], bool]) -> str | None:
    """The file that transformers opens first, WEIGHTS or WEIGHTS_INDEX; None where there is neither."""
    return next((name for name in (WEIGHTS, WEIGHTS_INDEX) if has(name)), None)


def shards_of(index: Mapping[str, Any], where: str) -> list[str]:
    """The files that an index names, sorted, relative to its folder.

    Raises:
        CheckpointError: no such names, or one that leads out of the folder; `where` names the index.
    """
    names = index.get("weight_map")
    if not isinstance(names, dict) or not all(str(name).endswith(".safetensors") for name in names.values()):
        raise CheckpointError(f"{where} has no weight_map from tensors to .safetensors files")
    files = sorted(set(map(str, names.values())))
    for file in files:
        if PurePosixPath(file).is_absolute() or ".." in PurePosixPath(file).parts or "\0" in file:
            raise CheckpointError(f"{where} names {file[:60]!r}, which is not in its folder")
    return files


def weight_files(folder: Path) -> list[Path]:
    """The files whose tensors are the model's. Raises CheckpointError where there are none or one is missing."""
    first = first_file(lambda name: (folder / name).is_file())
    if first is None:
        raise CheckpointError(
            f"{folder.name} has neither {WEIGHTS} nor {WEIGHTS_INDEX}; only safetensors are read, never pickle"
        )
    if first == WEIGHTS:
        return [folder / WEIGHTS]
    files = [folder / name for name in shards_of(read_json(folder / WEIGHTS_INDEX), str(folder / WEIGHTS_INDEX))]
    for file in files:
        if not os.path.isfile(file):
            raise CheckpointError(f"{folder.name} has no {file.name}, which {WEIGHTS_INDEX} names")
    return files


def tensors_in(folder: Path) -> dict[str, TensorEntry]:
    """Every tensor of the weight files by the name it is stored under. Raises CheckpointError."""
    return {name: entry for file in weight_files(folder) for name, entry in read_header(file).items()}


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
    if dtype not in DTYPES:
        return TensorEntry(path, base + start, str(dtype), shape)
    if stop - start != math.prod(shape) * DTYPES[dtype].itemsize:
        raise ValueError(f"{name} names {stop - start} bytes for shape {shape} of {dtype}")
    if base + stop > size:
        raise CheckpointError(f"{path.name} ends before {name}: the download is truncated")
    return TensorEntry(path, base + start, dtype, shape)


def read_rows(entry: TensorEntry, start: int, stop: int) -> NDArray[np.float32]:
    """Rows `start .. stop` of the leading axis, flat, as float32. Raises CheckpointError where the file ends first."""
    dtype = DTYPES[entry.dtype]
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


def same_values(one: TensorEntry, other: TensorEntry) -> bool:
    """Whether two tensors hold the same numbers, whatever each is stored as; the files are read once for an answer."""
    if one.shape != other.shape or not {one.dtype, other.dtype} <= DTYPES.keys():
        return False
    return _same_values(one, other, _written(one.file), _written(other.file))


def _written(file: Path) -> tuple[int, int]:
    stat = file.stat()
    return stat.st_size, stat.st_mtime_ns


@lru_cache(maxsize=32)
def _same_values(one: TensorEntry, other: TensorEntry, *written: tuple[int, int]) -> bool:
    """`written` is size and date of both files: a file that changed is another one."""
    rows = one.shape[0] if one.shape else 0
    step = max(1, READ_BYTES // (4 * max(1, math.prod(one.shape[1:]))))
    spans = ((start, min(start + step, rows)) for start in range(0, rows, step))
    return all(np.array_equal(read_rows(one, *span), read_rows(other, *span)) for span in spans)
