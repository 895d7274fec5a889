"""The devices an engine can run on, each with its layout, its executor and the memory it may use."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any

from eet_demo.engine.blocks import WeightFormat
from eet_demo.engine.dtypes import REALS, real
from eet_demo.engine.executors import Executor
from eet_demo.engine.executors.cpu.executor import CpuExecutor, CpuLayout
from eet_demo.engine.executors.reference.executor import ReferenceExecutor, ReferenceLayout
from eet_demo.engine.plan import Layout, Plan
from eet_demo.engine.program import Program
from eet_demo.errors import UnsupportedError
from eet_demo.machine.hardware import available_memory_bytes
from eet_demo.records import EngineOptions

Formats = Mapping[str, WeightFormat]
"""How each weight is stored, by canonical name (`Checkpoint.formats`)."""

COMMON_OPTIONS = frozenset({"threads", "prefill_chunk", "debug", "ragged_prefill", "shared_workspace"})
"""Options of every device; a device names those it knows beside them."""


@dataclass(frozen=True)
class DeviceKind:
    """What `device=` names: `dtypes`, `weights` and `options` it supports, and how to build its parts.

    Args:
        layout: of a dtype and the weights' formats.
        executor: of a program, its plan, a dtype, the weights' formats and the options.
    """

    dtypes: tuple[str, ...]
    weights: tuple[str, ...]
    prefill_chunk: int
    layout: Callable[[str, Formats], Layout]
    executor: Callable[[Program, Plan, str, Formats, EngineOptions], Executor]
    available_bytes: Callable[[], int]
    options: frozenset[str] = frozenset()


def _reference(program: Program, plan: Plan, dtype: str, formats: Formats, options: EngineOptions) -> Executor:
    return ReferenceExecutor(program, plan, dtype, options.debug, formats)


def _cpu(program: Program, plan: Plan, dtype: str, formats: Formats, options: EngineOptions) -> Executor:
    return CpuExecutor(program, plan, options, formats=formats, dtype=real(dtype))


def _cuda_layout(dtype: str, formats: Formats) -> Layout:
    from eet_demo.engine.executors.cuda.runtime.layout import CUBLAS_BYTES, CudaLayout

    return CudaLayout(real(dtype), formats, CUBLAS_BYTES)


def _sim_layout(dtype: str, formats: Formats) -> Layout:
    from eet_demo.engine.executors.cuda.runtime.layout import CudaLayout

    return CudaLayout(real(dtype), formats)


def _cuda(program: Program, plan: Plan, dtype: str, formats: Formats, options: EngineOptions) -> Executor:
    from eet_demo.engine.executors.cuda.runtime.devices import CudaDevice

    return _on_device(program, plan, dtype, formats, options, lambda: CudaDevice(real(dtype), options))


def _sim(program: Program, plan: Plan, dtype: str, formats: Formats, options: EngineOptions) -> Executor:
    from eet_demo.engine.executors.cuda.runtime.devices import SimDevice

    return _on_device(program, plan, dtype, formats, options, lambda: SimDevice(options))


def _on_device(
    program: Program, plan: Plan, dtype: str, formats: Formats, options: EngineOptions, device: Callable[[], Any]
) -> Executor:
    """torch and CuPy are imported here, by the worker that needs them, and by no other."""
    from eet_demo.engine.executors.cuda.runtime.executor import CudaExecutor
    from eet_demo.engine.executors.cuda.runtime.layout import CudaLayout

    return CudaExecutor(program, plan, CudaLayout(real(dtype), formats), formats, options, device)


def _cuda_memory() -> int:
    from eet_demo.engine.executors.cuda.runtime.devices import free_memory_bytes

    return free_memory_bytes()


CUDA_OPTIONS = frozenset({"graph", "prefetch", "split_kv", "tokens_per_graph"})

DEVICES = {
    "reference": DeviceKind(
        ("float32", "float64"),
        ("dense", "q8_0", "packed"),
        256,
        lambda dtype, formats: ReferenceLayout(dtype),
        _reference,
        available_memory_bytes,
    ),
    "cpu": DeviceKind(
        ("float32", "bfloat16", "float16"),
        ("dense", "q8_0", "packed"),
        256,
        lambda dtype, formats: CpuLayout(formats, real(dtype)),
        _cpu,
        available_memory_bytes,
        frozenset({"quantised_activations"}),
    ),
    "cuda": DeviceKind(
        REALS, ("dense", "q8_0", "packed"), 2048, _cuda_layout, _cuda, _cuda_memory, CUDA_OPTIONS | {"pdl"}
    ),
    "sim": DeviceKind(
        REALS, ("dense", "q8_0", "packed"), 2048, _sim_layout, _sim, available_memory_bytes, CUDA_OPTIONS
    ),
}


def device_for(device: str, dtype: str, weights: str, options: EngineOptions | None = None) -> DeviceKind:
    """The device's kind.

    Raises:
        UnsupportedError: an unknown device, or a dtype, weights or option it lacks; the message names what there is.
    """
    if device not in DEVICES:
        raise UnsupportedError(f"device {device!r} is not supported; supported: {', '.join(DEVICES)}")
    kind = DEVICES[device]
    for name, given, supported in (("dtype", dtype, kind.dtypes), ("weights", weights, kind.weights)):
        if given not in supported:
            raise UnsupportedError(
                f"device {device!r} does not support {name} {given!r}; supported: {', '.join(supported)}"
            )
    known = COMMON_OPTIONS | kind.options
    usual, asked = EngineOptions(), options or EngineOptions()
    for item in fields(EngineOptions):
        value = getattr(asked, item.name)
        if item.name not in known and value != getattr(usual, item.name):
            raise UnsupportedError(
                f"device {device!r} does not know the option {item.name} ({value!r} was given); "
                f"it knows {', '.join(sorted(known))}"
            )
    return kind
