"""A model opened and its memory planned, nothing allocated yet."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from eet_demo.engine.checkpoint import Checkpoint
from eet_demo.engine.compile_spec import build_program
from eet_demo.engine.devices import DeviceKind
from eet_demo.engine.families import weights_of
from eet_demo.engine.plan import Limits, Plan, plan_memory
from eet_demo.engine.program import Program
from eet_demo.engine.random_weights import RandomCheckpoint
from eet_demo.engine.shapes import config_of
from eet_demo.engine.work import Bytes
from eet_demo.errors import RequestError
from eet_demo.records import EngineOptions

GUARD_BYTES = 64
"""Bytes between blocks in debug mode."""


@dataclass(frozen=True)
class Planned:
    """What an engine is built from; `weight_bytes` by canonical name."""

    checkpoint: Checkpoint
    program: Program
    plan: Plan
    weight_bytes: dict[str, int]
    element: Bytes


def plan_model(
    model: str | Path,
    kind: DeviceKind,
    dtype: str,
    weights: str,
    max_batch: int,
    max_context: int,
    options: EngineOptions,
) -> Planned:
    """Opens the checkpoint and plans its memory."""
    checkpoint = _open(model, weights)
    spec = checkpoint.spec
    if max_batch < 1 or max_context < 1:
        raise RequestError(f"max_batch {max_batch} and max_context {max_context} must be at least 1")
    if max_context > spec.max_positions:
        raise RequestError(
            f"max_context {max_context} is beyond the {spec.max_positions} positions of {checkpoint.folder.name}"
        )
    program = build_program(spec)
    limits = Limits(max_batch, max_context, options.prefill_chunk or kind.prefill_chunk)
    layout = kind.layout(dtype, checkpoint.formats)
    plan = plan_memory(program, layout, limits, GUARD_BYTES if options.debug else 0, options.shared_workspace)
    sizes = {weight.name: layout.weight_bytes(weight) for weight in weights_of(spec)}
    return Planned(checkpoint, program, plan, sizes, Bytes(layout.activation_bytes, layout.kv_bytes))


def _open(model: str | Path, weights: str) -> Checkpoint:
    shape = config_of(model)
    if shape is not None:
        return RandomCheckpoint(shape, str(model), weights)
    return Checkpoint(Path(model), weights)
