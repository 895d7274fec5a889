"""Models of a public shape with random weights: for measurements where the real weights are not at hand."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eet_demo.engine.checkpoint import BLOCK_BYTES, Checkpoint, RowBlock
from eet_demo.engine.shapes import PREFIX
from eet_demo.engine.spec import spec_from_config
from eet_demo.engine.weights import Weight

STANDARD_DEVIATION = 0.02
"""Of projections and embeddings, as GPT-2 and Llama are initialised; norms are near 1 by as much."""


class RandomCheckpoint(Checkpoint):
    """What a `Checkpoint` offers, without a file behind it: every executor loads it as it loads a folder.

    The values depend on the seed and on the weight alone, so that two loads are the same model. They are drawn on the
    host; an executor that can draw on its device may do so instead.
    """

    def __init__(self, name: str, config: dict[str, Any], seed: int = 0) -> None:
        """Raises UnsupportedError or CheckpointError for a config that no spec can be made of."""
        self.folder = Path(PREFIX + name)
        self.config = config
        self.spec = spec_from_config(config)
        self.seed = seed

    def check(self) -> None:
        """Nothing can be missing."""

    def blocks(self, weight: Weight) -> Iterator[RowBlock]:
        """The weight's rows as float32, part by part, a few megabytes at a time."""
        generator = np.random.default_rng([self.seed, zlib.crc32(weight.name.encode())])
        columns = max(1, weight.columns)
        step = max(16, BLOCK_BYTES // (4 * columns) // 16 * 16)
        for index, part in enumerate(weight.parts):
            for start in range(0, part.rows, step):
                values = self._draw(generator, weight, min(step, part.rows - start), columns)
                yield RowBlock(index, start, values if weight.is_matrix else values[:, 0])

    def _draw(
        self, generator: np.random.Generator, weight: Weight, rows: int, columns: int
    ) -> NDArray[np.float32]:
        values = generator.standard_normal((rows, columns), np.float32) * np.float32(STANDARD_DEVIATION)
        return values + np.float32(is_norm_weight(weight))


def is_norm_weight(weight: Weight) -> bool:
    """Whether the weight multiplies normalised values: drawn near 1 then, and near 0 otherwise."""
    return not weight.is_matrix and weight.name.endswith(".weight")
