"""A Hugging Face model folder, config.json and safetensors, read straight into the caller's arrays."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import NoReturn

import numpy as np
from numpy.typing import NDArray

from eet_demo.engine.blocks import BLOCK_BYTES, BLOCK_VALUES, WeightFormat, quantise_q8_0
from eet_demo.engine.families import head_of, spec_from_config, stored_names, unknown_tensors, weights_of
from eet_demo.engine.gguf_weights import GgufWeights
from eet_demo.engine.spec import ModelSpec
from eet_demo.engine.tensor_files import (
    DTYPES,
    READ_BYTES,
    TensorEntry,
    read_json,
    read_rows,
    same_values,
    tensors_in,
)
from eet_demo.engine.weights import Part, Weight
from eet_demo.errors import CheckpointError, UnsupportedError

LOGGER = logging.getLogger(__name__)

POSITIONS = "embed.positions"
"""The one matrix that is only a table of rows."""


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
        self._entries = tensors_in(folder)
        self._places: dict[str, TensorEntry] = {}
        self._place()

    def check(self) -> None:
        """Raises CheckpointError naming every missing or misshapen tensor; notes in the log what is left aside."""
        faults = []
        for weight in weights_of(self.spec):
            for part in weight.parts:
                entry = self._places.get(part.tensor)
                expected = _expected_shape(weight, part)
                if entry is None:
                    faults.append(f"{part.tensor} is missing")
                elif entry.dtype not in DTYPES:
                    faults.append(f"{part.tensor} is stored as {entry.dtype}; read are {', '.join(DTYPES)}")
                elif entry.shape != expected:
                    faults.append(f"{part.tensor} has shape {entry.shape}, the config asks for {expected}")
        if faults:
            raise CheckpointError(f"{self.folder.name}: {_first_five(faults)}")
        if self.left_aside:
            LOGGER.warning(
                "%s: left aside, as transformers does, is what its config has no place for: %s",
                self.folder.name, _first_five(self.left_aside),
            )  # fmt: skip

    @property
    def left_aside(self) -> list[str]:
        """Tensors of the files that are not read: heads of other tasks, biases and layers that the config lacks."""
        read = {name for weight in weights_of(self.spec) for part in weight.parts for name in self._names(part)}
        return unknown_tensors(self.spec, (name for name in self._entries if name not in read))

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
            entry = self._places.get(part.tensor)
            if entry is None:
                raise CheckpointError(f"{self.folder.name}: {part.tensor} is missing")
            if part.transposed:
                matrix = read_rows(entry, 0, entry.shape[0]).reshape(entry.shape).T
                step = max(16, READ_BYTES // (4 * weight.columns) // 16 * 16)
                for start in range(0, part.rows, step):
                    yield RowBlock(index, start, part.values(np.ascontiguousarray(matrix[start : start + step])))
                continue
            columns = max(1, weight.columns)
            step = max(16, READ_BYTES // (4 * columns) // 16 * 16)
            for start in range(0, part.rows, step):
                rows = part.source_rows(start, min(start + step, part.rows))
                stored = read_rows(entry, int(rows[0]), int(rows[-1]) + 1).reshape(-1, columns)
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

    def _place(self) -> None:
        """Finds every tensor, and whether the head is the embedding: transformers asks what the files hold.

        A config that ties them is not believed where both are there and differ; where only the head is there, it is
        the embedding too.
        """
        head, tokens = head_of(self.spec), weights_of(self.spec)[0].parts[0]
        found = {part.tensor: self._find(part) for weight in weights_of(self.spec) for part in weight.parts}
        own = self._find(head)
        if self.spec.tied_head and own is not None:
            embedding = found[tokens.tensor]
            if embedding is None:
                found[tokens.tensor] = own
            elif not same_values(embedding, own):
                self.spec = replace(self.spec, tied_head=False)
                found[head.tensor] = own
        self._places = {tensor: entry for tensor, entry in found.items() if entry is not None}
        if not self._places:
            raise CheckpointError(
                f"{self.folder.name} holds no tensor {tokens.tensor} nor any other of a {self.spec.family} model"
            )

    def _find(self, part: Part) -> TensorEntry | None:
        return next((self._entries[name] for name in self._names(part)), None)

    def _names(self, part: Part) -> list[str]:
        """The part's tensor as the files have it; of several names transformers takes the first in their order."""
        return sorted((name for name in stored_names(self.spec, part.tensor) if name in self._entries), key=_by_part)


def _by_part(name: str) -> list[str]:
    return name.split(".")


def _first_five(items: list[str]) -> str:
    return "; ".join(items[:5]) + (f"; and {len(items) - 5} more" if len(items) > 5 else "")


def _expected_shape(weight: Weight, part: Part) -> tuple[int, ...]:
    if not weight.is_matrix:
        return (part.tensor_rows,)
    return (weight.columns, part.tensor_rows) if part.transposed else (part.tensor_rows, weight.columns)
