"""Checkpoint to arena: each weight read once, a few megabytes at a time, straight to where kernels find it."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

from eet_demo.engine.blocks import split_blocks
from eet_demo.engine.checkpoint import Checkpoint
from eet_demo.engine.executors.cuda.launchers.matrices import WeightFormat
from eet_demo.engine.executors.cuda.runtime.operands import Operands
from eet_demo.engine.families import weights_of
from eet_demo.engine.random_weights import STANDARD_DEVIATION, RandomCheckpoint, is_norm_weight, seed_of
from eet_demo.engine.weights import Weight
from eet_demo.errors import NumericsError


def load_weights(checkpoint: Checkpoint, operands: Operands, formats: Mapping[str, WeightFormat]) -> None:
    """Brings every weight into the arena. On a device of its own, random weights are drawn there.

    Raises:
        CheckpointError: missing or misshapen tensors, before anything is read; NaN or infinity in one.
        NumericsError: a value too large for the compute dtype.
    """
    checkpoint.check()
    for weight in weights_of(operands.spec):
        if (
            isinstance(checkpoint, RandomCheckpoint)
            and operands.arena.memory.is_cuda
            and formats[weight.name] == "dense"
        ):
            _draw(weight, operands, checkpoint.seed)
        elif formats[weight.name] == "dense":
            _load_dense(checkpoint, weight, operands)
        else:
            _load_blocks(checkpoint, weight, operands)


def _load_dense(checkpoint: Checkpoint, weight: Weight, operands: Operands) -> None:
    target = _target(weight, operands)
    for block in checkpoint.blocks(weight):
        values = torch.from_numpy(np.ascontiguousarray(block.values))
        target[weight.rows_of(block.part, block.start, len(values))].copy_(values)
    if not bool(torch.isfinite(target).all()):
        raise NumericsError(
            f"{checkpoint.folder.name}: {weight.name} holds values beyond {operands.dtype}'s range; use bfloat16 or "
            "float32"
        )


def _load_blocks(checkpoint: Checkpoint, weight: Weight, operands: Operands) -> None:
    matrix = operands.matrix(weight.name)
    assert matrix.scales is not None, "a quantised matrix has scales"
    values, scales = operands.tensor(matrix.values), operands.tensor(matrix.scales)
    for block in checkpoint.raw_blocks(weight):
        planes = split_blocks(block.raw, matrix.format)
        for target, plane in zip((values, scales), planes, strict=True):
            target[weight.rows_of(block.part, block.start, len(plane))].copy_(torch.from_numpy(plane))


def _draw(weight: Weight, operands: Operands, seed: int) -> None:
    target = _target(weight, operands)
    generator = torch.Generator(device=target.device).manual_seed(seed_of(weight, seed))
    target.normal_(float(is_norm_weight(weight)), STANDARD_DEVIATION, generator=generator)


def _target(weight: Weight, operands: Operands) -> torch.Tensor:
    """A dense weight's memory; norms and biases lie as `Operands.vector` finds them."""
    array = operands.matrix(weight.name).values if weight.is_matrix else operands.vector(weight.name)
    assert array is not None, "a weight has a name"
    tensor: torch.Tensor = operands.tensor(array)
    return tensor
