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
from eet_demo.models.gguf.header import GgufEntry, read_header
from eet_demo.models.gguf.names import ARCHITECTURES, hf_name

FORMATS: dict[str, WeightFormat] = {
    "Q4_0": "q4_0", "Q4_1": "q4_1", "Q8_0": "q8_0", "F32": "dense", "F16": "dense", "BF16": "dense",
}  # fmt: skip
"""GGUF type to stored format; floats are read from the folder's safetensors, which hold the same numbers."""


class GgufWeights:
    """One `.gguf` file beside a model's config.json."""

    def __init__(self, folder: Path, spec: ModelSpec) -> None:
        """Raises UnsupportedError without such a file or for another architecture; CheckpointError for a broken one."""
        files = sorted(folder.glob("*.gguf"))
        if len(files) != 1:
            there = f"holds {len(files)} of them" if files else "has none"
            raise UnsupportedError(
                f"weights 'packed' are those of the model's own .gguf file, and {folder.name} {there}; "
                "weights 'dense' and 'q8_0' need none"
            )
        self._file, self._spec = files[0], spec
        header = read_header(self._file, arrays=False)
        architecture = str(header.values.get("general.architecture", ""))
        if architecture not in ARCHITECTURES:
            raise UnsupportedError(
                f"{self._file.name} holds the architecture {architecture or 'unnamed'!r}; packed weights are read "
                f"from GGUF files of {' and '.join(ARCHITECTURES)}"
            )
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
