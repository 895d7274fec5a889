"""`CudaExecutor`: the step program on a GPU, or thread by thread on the simulator. One path, two devices."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Generator, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from eet_demo.engine import program as p
from eet_demo.engine.checkpoint import Checkpoint
from eet_demo.engine.executors import Float32, Int32, Step
from eet_demo.engine.executors.cuda.arrays import DeviceArray
from eet_demo.engine.executors.cuda.launchers.gemv import BATCHES, MAX_ROWS
from eet_demo.engine.executors.cuda.launchers.matrices import WeightFormat
from eet_demo.engine.executors.cuda.runtime.arena import Arena
from eet_demo.engine.executors.cuda.runtime.decode_loop import DecodeLoop, TokenRing
from eet_demo.engine.executors.cuda.runtime.devices import Device
from eet_demo.engine.executors.cuda.runtime.inputs import StepInputs, upload_rows, upload_step, upload_wanted
from eet_demo.engine.executors.cuda.runtime.layout import CudaLayout
from eet_demo.engine.executors.cuda.runtime.loading import load_weights
from eet_demo.engine.executors.cuda.runtime.lowering import Lowering
from eet_demo.engine.executors.cuda.runtime.operands import Operands, check_supported
from eet_demo.engine.executors.cuda.runtime.queue import Recording
from eet_demo.engine.plan import Plan
from eet_demo.engine.sampling import check_drawn
from eet_demo.errors import NumericsError
from eet_demo.records import EngineOptions, Sampling

GREEDY = Sampling()

PASSES = 16
"""Shapes of prefill passes whose launches are kept: lowering one costs the host milliseconds, repeating it less."""


class CudaExecutor:
    """Owns the arena, the ring and the captured steps."""

    threads = 1
    """Launches; a simulated device runs in it too."""

    def __init__(
        self,
        program: p.Program,
        plan: Plan,
        layout: CudaLayout,
        formats: Mapping[str, WeightFormat],
        options: EngineOptions,
        make_device: Callable[[], Device],
    ) -> None:
        """Compiles every kernel that this model can need here, or loads it from the kernel cache.

        Raises:
            UnsupportedError: a model, dtype or device that the kernels do not serve.
            KernelCompileError: no compiler, or it refused a kernel.
        """
        check_supported(program)
        self._program, self._plan, self._formats = program, plan, formats
        self._debug = options.debug
        self._device = make_device()
        state = layout.state(program, plan.limits)
        with self._device.active():
            self._arena = Arena(plan, self._device.allocate(plan.arena_bytes), state, options.debug)
            self._operands = Operands(program, plan, layout, formats, self._arena)
            self._write_constants()
        self._ring = TokenRing(self._device, plan.limits.logit_rows)
        self._lowering = Lowering(
            self._operands, self._device.queue, self._device.processors, self._device.capability, options.split_kv,
            self._watch if options.debug else None,
        )  # fmt: skip
        graph = options.graph and not options.debug
        self._decode = DecodeLoop(
            self._lowering, self._device, self._arena, self._ring, plan.limits.max_context,
            options.tokens_per_graph if graph else 1, graph,
        )  # fmt: skip
        self._rows = 0
        self._passes: OrderedDict[tuple[int, ...], Recording] = OrderedDict()
        self._compile()

    def load(self, checkpoint: Checkpoint) -> None:
        """Raises CheckpointError for missing, misshapen or broken tensors, NumericsError for what overflows."""
        with self._device.active():
            load_weights(checkpoint, self._operands, self._formats)
        self._device.synchronise()

    def run(self, step: Step) -> Int32:
        with self._device.active():
            inputs, wanted = upload_step(self._arena, step, self._plan.limits.max_context)
            self._rows = inputs.rows
            self._body(inputs, len(step.wanted))
        if wanted is None:
            self._finish()
            return np.empty(0, np.int32)
        tokens = []
        groups = range(0, len(step.wanted), self._plan.limits.logit_rows)
        for first in groups:
            rows = slice(first, first + self._plan.limits.logit_rows)
            tokens.append(self._draw(step, wanted[rows], rows))
        self._finish()
        return np.concatenate(tokens)

    def decode(self, step: Step, count: int, stop: frozenset[int]) -> Generator[tuple[Int32, int]]:
        yield from self._decode.run(step, count, stop)
        self._finish()

    def head(self, wanted: Int32) -> Float32:
        with self._device.active():
            logits, _ = self._lowering.head(self._rows, upload_wanted(self._arena, wanted))
            values: Float32 = self._operands.tensor(logits).cpu().numpy()
        return values

    def measure_bandwidth_gb_s(self) -> float | None:
        return self._device.read_bandwidth_gb_s(self._arena.memory[: self._plan.report.weights_bytes])

    def check_guards(self) -> None:
        """Raises AssertionError when an op wrote past its block (debug plans only)."""
        self._arena.check_guards()

    def close(self) -> None:
        """Gives the memory back; what was captured goes with it. Raises KernelFaultError, the memory given back."""
        try:
            self._device.synchronise()
        finally:
            for name in ("_decode", "_passes", "_lowering", "_operands", "_arena", "_ring"):
                delattr(self, name)

    def _compile(self) -> None:
        """Lowers a step of every size without launching it, and compiles what it would have launched."""
        queue, limits = self._device.queue, self._plan.limits
        sizes = [rows for rows in BATCHES if rows <= limits.rows]
        if limits.rows > MAX_ROWS:
            sizes.append(MAX_ROWS + 1)
        with queue.recording() as recording, self._device.active():
            for rows in sizes:
                step = _prefill_step(rows)
                inputs, _ = upload_step(self._arena, step, limits.max_context)
                self._lowering.body(inputs)
            for rows in {min(size, limits.logit_rows) for size in (*BATCHES, limits.logit_rows)}:
                state = upload_rows(self._arena, decode_step(rows), ())
                if rows > MAX_ROWS:
                    self._lowering.body(state.inputs(1))
                logits, best = self._lowering.head(rows, state.wanted)
                self._lowering.draw(logits, best, state, self._ring.array(rows))
        self._device.prepare(recording.instances)

    def _body(self, inputs: StepInputs, wanted: int) -> None:
        """Enqueues a pass; one of a shape that is known repeats the launches of the first, which are the same."""
        shape = (inputs.rows, inputs.ragged.batch, wanted, inputs.longest, inputs.length)
        if shape in self._passes:
            self._passes.move_to_end(shape)
            self._passes[shape].replay()
            return
        with self._device.queue.recording(runs=True) as recording:
            self._lowering.body(inputs)
        self._passes[shape] = recording
        if len(self._passes) > PASSES:
            self._passes.popitem(last=False)

    def _draw(self, step: Step, wanted: DeviceArray, rows: slice) -> Int32:
        """The tokens of some wanted rows, once they are in host memory."""
        self._ring.clear()
        with self._device.active():
            state = upload_rows(self._arena, _wanted_of(step, rows), ())
            logits, best = self._lowering.head(self._rows, wanted)
            self._lowering.draw(logits, best, state, self._ring.array(state.rows))
        return check_drawn(self._ring.wait(0, state.rows)[0], step.sample_rows[rows])

    def _finish(self) -> None:
        if self._debug:
            self._device.synchronise()
            self.check_guards()

    def _write_constants(self) -> None:
        spec, state, context = self._program.spec, self._arena.state, self._plan.limits.max_context
        constants: dict[str, NDArray[Any]] = {}
        if "alibi" in spec.positions:
            constants["slopes"] = spec.alibi_slopes()
        for layer in (i for i, kind in enumerate(spec.positions) if kind == "rotary"):
            array = self._operands.frequencies(layer)
            name = next(name for name in ("frequencies", "local_frequencies") if state[name] is array)
            constants[name] = spec.rotary_frequencies(context, layer)
        for name, values in constants.items():
            self._arena.tensor(state[name]).copy_(torch.from_numpy(np.ascontiguousarray(values, np.float32)))

    def _watch(self, op: p.Op, array: DeviceArray) -> None:
        """Debug mode: raises NumericsError naming the first op whose output is not finite."""
        if not bool(torch.isfinite(self._operands.tensor(array)).all()):
            raise NumericsError(f"{op.name} wrote NaN or infinity, in {self._operands.dtype}")


def _wanted_of(step: Step, rows: slice) -> Step:
    """Those wanted rows as a step of their own: what `upload_rows` reads."""
    chosen = step.wanted[rows]
    return _rows_step(len(chosen), step.sample_rows[rows], step.sample_steps[rows], step.sampling)


def decode_step(rows: int) -> Step:
    zeros = np.zeros(rows, np.int32)
    return _rows_step(rows, zeros, zeros, GREEDY)


def _rows_step(rows: int, sample_rows: Int32, sample_steps: Int32, sampling: Sampling) -> Step:
    zeros = np.zeros(rows, np.int32)
    counted = np.arange(rows + 1, dtype=np.int32)
    return Step(zeros, zeros, counted, zeros, zeros, counted[:rows], sample_rows, sample_steps, sampling)


def _prefill_step(rows: int) -> Step:
    """A prefill pass of one sequence of `rows` rows, for finding out which kernels it takes."""
    none = np.empty(0, np.int32)
    counted, zero = np.arange(rows, dtype=np.int32), np.zeros(1, np.int32)
    return Step(counted * 0, counted, np.array([0, rows], np.int32), zero, zero, none, none, none, GREEDY)
