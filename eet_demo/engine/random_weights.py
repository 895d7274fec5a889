"""Models of a public shape with random weights: for measurements where the real weights are not at hand."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eet_demo.engine.checkpoint import Checkpoint, RowBlock
from eet_demo.engine.families import spec_from_config
from eet_demo.engine.tensor_files import READ_BYTES
from eet_demo.engine.weights import Weight
from eet_demo.errors import UnsupportedError

STANDARD_DEVIATION = 0.02
"""Of projections and embeddings, as GPT-2 and Llama are initialised; norms are near 1 by as much."""


class RandomCheckpoint(Checkpoint):
    """A `Checkpoint` without a file behind it: every executor loads it as it loads a folder.

    The values depend on the seed and the weight alone, so that two loads are the same model. They are drawn on the
    host; an executor that can draw on its device may do so instead.
    """

    def __init__(self, config: Mapping[str, Any], name: str, weights: str = "dense", seed: int = 0) -> None:
        """Raises UnsupportedError or CheckpointError for a config that no spec can be made of, or packed weights."""
        if weights == "packed":
            raise UnsupportedError(f"{name} has random weights; packed ones come from a .gguf file: use dense or q8_0")
        self.folder = Path(name)
        self.config = dict(config)
        self.spec = spec_from_config(self.config)
        self.seed = seed
        self._weights = weights

    def check(self) -> None:
        """Nothing can be missing."""

    def _blocks(self, weight: Weight) -> Iterator[RowBlock]:
        generator = np.random.default_rng(seed_of(weight, self.seed))
        columns = max(1, weight.columns)
        step = max(16, READ_BYTES // (4 * columns) // 16 * 16)
        for index, part in enumerate(weight.parts):
            for start in range(0, part.rows, step):
                values = draw(generator, weight, min(step, part.rows - start), columns)
                yield RowBlock(index, start, values if weight.is_matrix else values[:, 0])


def draw(generator: np.random.Generator, weight: Weight, rows: int, columns: int) -> NDArray[np.float32]:
    """float32 (rows, columns): normal around 1 for a norm's weight, else around 0."""
    noise = generator.standard_normal((rows, columns), np.float32) * np.float32(STANDARD_DEVIATION)
    return noise + np.float32(is_norm_weight(weight))


def seed_of(weight: Weight, seed: int) -> int:
    """The seed of one weight's generator: no two weights are alike."""
    return seed << 32 | zlib.crc32(weight.name.encode())


def is_norm_weight(weight: Weight) -> bool:
    """Whether the weight multiplies normalised values."""
    return not weight.is_matrix and weight.name.endswith(".weight")
