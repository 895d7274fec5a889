"""The weights of a spec under canonical names, and where each comes from in a Hugging Face checkpoint."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Part:
    """Rows of one checkpoint tensor that fill `rows` rows of a weight.

    Args:
        transposed: GPT-2's Conv1D `(in, out)`; of such a tensor all rows are taken.
        first, of: its first row in the tensor, and how many rows the tensor has (0: no more than these).
        run, stride: the rows come in runs of `run`, the next one `stride` rows after (0: they lie together).
        offset: added to the stored values.
    """

    tensor: str
    rows: int
    transposed: bool = False
    first: int = 0
    of: int = 0
    run: int = 0
    stride: int = 0
    offset: float = 0.0

    @property
    def tensor_rows(self) -> int:
        return self.of or self.rows

    def source_rows(self, start: int, stop: int) -> NDArray[np.int64]:
        """int64 (stop - start,): the tensor's rows that its own rows `start .. stop` are, ascending."""
        rows = np.arange(start, stop)
        if self.run:
            rows = rows // self.run * self.stride + rows % self.run
        return self.first + rows

    def values(self, stored: NDArray[np.float32]) -> NDArray[np.float32]:
        """What stored values stand for."""
        return stored + np.float32(self.offset) if self.offset else stored

    def named(self, suffix: str) -> Part:
        """The part of the tensor whose name goes on with `.suffix`; a bias has no columns to transpose."""
        return replace(self, tensor=f"{self.tensor}.{suffix}", transposed=self.transposed and suffix == "weight")


@dataclass(frozen=True)
class Weight:
    """A canonical weight: a matrix `(rows, columns)` row-major over its parts, or a vector `(rows,)` if `columns` is 0.

    `interleaved` marks the gate and up projections (parts 0 and 1), whose rows an executor alternates in its own
    stride, so that one pass over the matrix yields both factors of an output.
    """

    name: str
    parts: tuple[Part, ...]
    columns: int = 0
    interleaved: bool = False

    @property
    def rows(self) -> int:
        return sum(part.rows for part in self.parts)

    def rows_of(self, part: int, start: int, count: int) -> slice:
        """Where rows `start .. start + count` of a part go: gate and up rows alternate, other parts follow each other.

        The CPU executor has an order of its own, see its layout.
        """
        if self.interleaved:
            return slice(part + 2 * start, part + 2 * (start + count), 2)
        first = sum(other.rows for other in self.parts[:part]) + start
        return slice(first, first + count)

    @property
    def is_matrix(self) -> bool:
        return self.columns > 0
