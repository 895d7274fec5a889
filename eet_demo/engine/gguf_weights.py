"""The quantised weights of the GGUF file in a model's folder: rows in the engine's order, no number changed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from eet_demo.engine.blocks import WeightFormat, row_bytes
from eet_demo.engine.spec import ModelSpec
from eet_demo.engine.weights import Part, Weight
from eet_demo.errors import CheckpointError, UnsupportedError
from eet_demo.models.gguf.header import GgufEntry, GgufHeader, is_gguf, read_header
from eet_demo.models.gguf.names import ARCHITECTURES, hf_name

FORMATS: dict[str, WeightFormat] = {
    "Q4_0": "q4_0", "Q4_1": "q4_1", "Q8_0": "q8_0", "F32": "dense", "F16": "dense", "BF16": "dense",
}  # fmt: skip
"""GGUF type to stored format; floats are read from the folder's safetensors, which hold the same numbers."""


class GgufWeights:
    """The GGUF beside a model's config.json."""

    def __init__(self, folder: Path, spec: ModelSpec) -> None:
        """Raises UnsupportedError without such a file, or with several; CheckpointError for a broken one."""
        self._file, header = model_file(folder)
        self._spec = spec
        architecture = str(header.values["general.architecture"])
        self._permuted = architecture == "llama"
        names = ((hf_name(architecture, name), name, entry) for name, entry in header.tensors.items())
        self._entries = {hf: (name, entry) for hf, name, entry in names if hf is not None}

    def format_of(self, weight: Weight) -> WeightFormat:
        """How a matrix is stored.

        Raises:
            UnsupportedError: a type that is not read, or parts of different types. CheckpointError: a missing or
                misshapen tensor.
        """
        found: dict[WeightFormat, str] = {}
        for part in weight.parts:
            name, entry = self._find(part)
            if entry.shape != (part.rows, weight.columns):
                raise CheckpointError(
                    f"{self._file.name}: {name} has shape {entry.shape}, the config asks for "
                    f"{(part.rows, weight.columns)}"
                )
            if entry.type not in FORMATS:
                raise UnsupportedError(
                    f"{self._file.name} stores {name} as {entry.type}; packed weights are {', '.join(FORMATS)}"
                )
            found[FORMATS[entry.type]] = f"{name} is {entry.type}"
        if len(found) > 1:
            raise UnsupportedError(
                f"{self._file.name}: {weight.name} is one matrix here, and its parts are stored differently: "
                f"{', '.join(found.values())}"
            )
        return next(iter(found))

    def raw_rows(self, part: Part, format: WeightFormat, columns: int, step: int) -> Iterator[NDArray[np.uint8]]:
        """uint8 (n, bytes a row): the part's rows in Hugging Face's order, `step` at a time."""
        name, entry = self._find(part)
        width = row_bytes(format, columns)
        order = self._row_order(name, part.rows)
        if order is not None:  # rows change places over the whole tensor
            yield self._read(entry.offset, part.rows, width)[order]
            return
        for start in range(0, part.rows, step):
            yield self._read(entry.offset + start * width, min(step, part.rows - start), width)

    def _row_order(self, name: str, rows: int) -> NDArray[np.int64] | None:
        """Undoes llama.cpp's `LlamaModel.permute` of q and k: row 2 * i + h of a head is row h * head_dim / 2 + i."""
        if not self._permuted or not (".attn_q." in name or ".attn_k." in name):
            return None
        heads = rows // self._spec.head_dim
        return np.arange(rows).reshape(heads, self._spec.head_dim // 2, 2).swapaxes(1, 2).ravel()

    def _read(self, offset: int, rows: int, width: int) -> NDArray[np.uint8]:
        raw = np.empty((rows, width), np.uint8)
        with open(self._file, "rb") as file:
            file.seek(offset)
            if file.readinto(raw.data.cast("B")) != raw.size:
                raise CheckpointError(f"{self._file.name} ends inside a tensor: the download is truncated")
        return raw

    def _find(self, part: Part) -> tuple[str, GgufEntry]:
        for name in (part.tensor, f"transformer.{part.tensor}"):
            if name in self._entries:
                return self._entries[name]
        raise CheckpointError(f"{self._file.name} has no tensor for {part.tensor}")


def model_file(folder: Path) -> tuple[Path, GgufHeader]:
    """Of a folder's files the one GGUF that holds its model, and its header without arrays.

    First bytes and headers tell, not names.
    A projector of images, an importance matrix, an adapter, a vocabulary or a part of a split file is none.

    Raises:
        UnsupportedError: none, or several. CheckpointError: the only file there is is broken.
    """
    models: list[tuple[Path, GgufHeader]] = []
    others: list[str] = []
    broken: CheckpointError | None = None
    for path in sorted(path for path in folder.iterdir() if path.is_file()):
        if path.suffix != ".gguf" and not is_gguf(path):
            continue
        try:
            header = read_header(path, arrays=False)
        except CheckpointError as error:
            broken = broken or error
            continue
        except UnsupportedError as error:
            others.append(f"{path.name} is not read ({error})")
            continue
        if (what := _something_else(header)) is None:
            models.append((path, header))
        else:
            others.append(f"{path.name} is {what}")
    if len(models) == 1:
        return models[0]
    if broken and not models:
        raise broken
    there = f"holds {len(models)} of them" if models else "has none"
    names = ", ".join([path.name for path, _ in models] or others)
    raise UnsupportedError(
        f"weights 'packed' are those of the model's own .gguf file, and {folder.name} {there}"
        f"{names and f' ({names})'}; weights 'dense' and 'q8_0' need none"
    )


def _something_else(header: GgufHeader) -> str | None:
    """What a GGUF is that is not the model; None for one that can be."""
    kind, parts = header.values.get("general.type", "model"), header.values.get("split.count", 1)
    architecture = header.values.get("general.architecture", "unnamed")
    if kind != "model":
        return f"of the type {kind!r}"
    if architecture not in ARCHITECTURES:
        return f"of the architecture {architecture!r} (read are {' and '.join(ARCHITECTURES)})"
    if isinstance(parts, int) and parts > 1:
        return f"one of {parts} parts"
    return None if "token_embd.weight" in header.tensors else "without an embedding"
