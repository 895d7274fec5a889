"""The launches of a decode step, written down instead of made: the real executor on a device without memory.

So a gate speaks of what would run: instances, grids, blocks and shared memory come from the launchers themselves, for
any number of multiprocessors.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, NoReturn, cast

import torch

from eet_demo.engine.checkpoint import POSITIONS
from eet_demo.engine.compile_spec import build_program
from eet_demo.engine.dtypes import Real
from eet_demo.engine.executors.cuda.arrays import DeviceArray
from eet_demo.engine.executors.cuda.compile.launch import Argument, Instance, LaunchConfig, Launcher
from eet_demo.engine.executors.cuda.launchers.matrices import WeightFormat
from eet_demo.engine.executors.cuda.runtime.executor import CudaExecutor, decode_step
from eet_demo.engine.executors.cuda.runtime.inputs import upload_rows
from eet_demo.engine.executors.cuda.runtime.layout import CudaLayout
from eet_demo.engine.executors.cuda.runtime.queue import Queue
from eet_demo.engine.families import weights_of
from eet_demo.engine.plan import Limits, plan_memory
from eet_demo.engine.spec import ModelSpec
from eet_demo.records import EngineOptions
from tools.gates.gates import PROJECTIONS, parameters
from tools.gates.gpus import Gpu


@dataclass(frozen=True)
class Launched:
    """One launch of a step."""

    instance: Instance
    config: LaunchConfig
    arguments: tuple[Argument, ...]

    @property
    def blocks(self) -> int:
        return math.prod(self.config.grid)

    def argument(self, name: str) -> Argument:
        """What the kernel's parameter of that name was given."""
        names = [parameter.name for parameter in parameters(self.instance.stem)]
        return self.arguments[names.index(name)]

    @property
    def weight_bytes(self) -> int:
        """Of the matrix that a projection streams, its scales included; 0 for other kernels."""
        if self.instance.stem not in PROJECTIONS:
            return 0
        planes = (self.argument("weights"), self.argument("scales"))
        return sum(plane.nbytes for plane in planes if isinstance(plane, DeviceArray))


class PaperLauncher:
    """Keeps launches. It has no memory, so whatever would touch some fails."""

    def __init__(self, gpu: Gpu) -> None:
        self.processors, self.capability = gpu.processors, gpu.capability
        self.launches: list[Launched] = []

    def prepare(self, instances: Iterable[Instance]) -> None:
        """Nothing is compiled."""

    def bind(self, instance: Instance, config: LaunchConfig, arguments: Sequence[Argument]) -> Callable[[], None]:
        return lambda: self.launch(instance, config, arguments)

    def launch(self, instance: Instance, config: LaunchConfig, arguments: Sequence[Argument]) -> None:
        self.launches.append(Launched(instance, config, tuple(arguments)))

    def synchronise(self) -> None:
        """Nothing is under way."""

    def __getattr__(self, name: str) -> NoReturn:
        raise AttributeError(f"a launcher on paper has no memory: {name} was asked for")


class PaperDevice:
    """A `runtime.devices.Device` whose memory is torch's `meta`: shapes without bytes."""

    def __init__(self, gpu: Gpu) -> None:
        self.launcher = PaperLauncher(gpu)
        self.queue = Queue(cast(Launcher, self.launcher))
        self.processors = gpu.processors
        self.capability: int | None = gpu.capability

    def prepare(self, instances: Iterable[Instance]) -> None:
        """Nothing is compiled."""

    def allocate(self, nbytes: int) -> torch.Tensor:
        return torch.empty(nbytes, dtype=torch.uint8, device="meta")

    def ring(self, words: int) -> torch.Tensor:
        return torch.zeros(words, dtype=torch.int32)

    def active(self) -> AbstractContextManager[Any]:
        return nullcontext()

    def capture(self, work: Callable[[], None]) -> Callable[[], object]:
        return work

    def check(self) -> None:
        """Nothing can fail."""

    def synchronise(self) -> None:
        """Nothing is under way."""

    def read_bandwidth_gb_s(self, memory: torch.Tensor) -> float | None:
        return None


def decode_launches(
    spec: ModelSpec, dtype: Real, weights: WeightFormat, rows: int, length: int, gpu: Gpu
) -> list[Launched]:
    """Every launch of one decode step of `rows` sequences of up to `length` slots, in order."""
    program = build_program(spec)
    formats: dict[str, WeightFormat] = {
        weight.name: weights if weight.is_matrix and weight.name != POSITIONS else "dense"
        for weight in weights_of(spec)
    }
    layout = CudaLayout(dtype, formats)
    limits = Limits(rows, min(spec.max_positions, length), rows)
    device = PaperDevice(gpu)
    executor = CudaExecutor(
        program, plan_memory(program, layout, limits), layout, formats, EngineOptions(), lambda: device
    )
    state = upload_rows(executor._arena, decode_step(rows), ())
    device.launcher.launches.clear()
    executor._lowering.decode_step(state, length, executor._ring.array(rows))
    return device.launcher.launches
