"""The devices an engine can run on, each with its layout, its executor and the memory it may use."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from eet_demo.engine.executors import Executor
from eet_demo.engine.executors.cpu.executor import CpuExecutor, CpuLayout
from eet_demo.engine.executors.reference_executor import ReferenceExecutor, ReferenceLayout
from eet_demo.engine.plan import Layout, Plan
from eet_demo.engine.program import Program
from eet_demo.errors import UnsupportedError
from eet_demo.hardware import available_memory_bytes
from eet_demo.records import EngineOptions


@dataclass(frozen=True)
class DeviceKind:
    """What `device=` names: `dtypes` and `weights` it supports, and how to build its parts."""

    dtypes: tuple[str, ...]
    weights: tuple[str, ...]
    prefill_chunk: int
    layout: Callable[[str], Layout]
    executor: Callable[[Program, Plan, str, EngineOptions], Executor]
    available_bytes: Callable[[], int]


def _reference(program: Program, plan: Plan, dtype: str, options: EngineOptions) -> Executor:
    return ReferenceExecutor(program, plan, dtype, options.debug)


def _cpu(program: Program, plan: Plan, dtype: str, options: EngineOptions) -> Executor:
    return CpuExecutor(program, plan, options)


DEVICES = {
    "reference": DeviceKind(
        ("float32", "float64"), ("dense",), 256, ReferenceLayout, _reference, available_memory_bytes
    ),
    "cpu": DeviceKind(("float32",), ("dense",), 256, lambda dtype: CpuLayout(), _cpu, available_memory_bytes),
}


def device_for(device: str, dtype: str, weights: str) -> DeviceKind:
    """Raises UnsupportedError naming what there is for an unknown device or a dtype or weight format it lacks."""
    if device not in DEVICES:
        raise UnsupportedError(f"device {device!r} is not supported; supported: {', '.join(DEVICES)}")
    kind = DEVICES[device]
    for name, given, supported in (("dtype", dtype, kind.dtypes), ("weights", weights, kind.weights)):
        if given not in supported:
            raise UnsupportedError(
                f"device {device!r} does not support {name} {given!r}; supported: {', '.join(supported)}"
            )
    return kind
