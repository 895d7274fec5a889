"""`CpuExecutor`: the step program on the machine's own cores, one call into C++ a step."""

from __future__ import annotations

import ctypes
import time
from collections.abc import Generator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from eet_demo.engine import program as p
from eet_demo.engine.blocks import BLOCK_BYTES, WeightFormat, row_bytes
from eet_demo.engine.checkpoint import POSITIONS, Checkpoint
from eet_demo.engine.dtypes import Real, to_bfloat16
from eet_demo.engine.executors import Float32, Int32, Step
from eet_demo.engine.executors.cpu import records
from eet_demo.engine.executors.cpu.compiler import library
from eet_demo.engine.executors.cpu.layout import CpuLayout, destinations
from eet_demo.engine.executors.cpu.lowering import Constants, Lowering, lower_model
from eet_demo.engine.executors.host_arena import HostArena
from eet_demo.engine.families import weights_of
from eet_demo.engine.passes import decode_on_host
from eet_demo.engine.plan import Plan
from eet_demo.engine.sampling import check_drawn
from eet_demo.engine.weights import Weight
from eet_demo.errors import NumericsError, UnsupportedError
from eet_demo.machine.hardware import usable_cores
from eet_demo.records import EngineOptions, Sampling

__all__ = ["CpuExecutor", "CpuLayout"]

BANDWIDTH_PASSES = 5
GREEDY = Sampling()


class CpuExecutor:
    """Owns the arena, the lowered program and the threads; the calling thread is one of them."""

    def __init__(
        self,
        program: p.Program,
        plan: Plan,
        options: EngineOptions,
        cache: Path | None = None,
        flags: Sequence[str] = (),
        formats: Mapping[str, WeightFormat] = MappingProxyType({}),
        dtype: Real = "float32",
    ) -> None:
        """Compiles at first use into `cache` (None: the usual one), with `flags` beside the usual (a sanitizer's, say).

        `formats` and `dtype` as in CpuLayout: a dtype of 16 bits is how dense matrices are stored; activations, cache,
        norms and biases stay float32.

        Raises:
            UnsupportedError: an option that makes no sense here, or a thread count it cannot serve.
            KernelCompileError: the C++ cannot be compiled or loaded. CacheError: nor kept.
        """
        threads = _threads(options)
        self._program, self._plan, self._spec = program, plan, program.spec
        self._debug = options.debug
        self._layout = CpuLayout(formats, dtype)
        pieces = _pieces(options, formats)
        self._library = records.open_library(library(cache, flags))
        self._arena = HostArena(plan, options.debug)
        self._base = self._arena.bytes.ctypes.data
        self._constants = Constants(self._spec, plan.limits.max_context)
        model = lower_model(self._spec, plan)
        ops = Lowering(program, plan, self._layout, self._constants, self._base, pieces).ops()
        self._engine = self._library.eet_create(model, (records.Op * len(ops))(*ops), len(ops), threads)
        if not self._engine:
            raise UnsupportedError(f"{threads} threads cannot be started on this machine; ask for fewer")
        self.threads = threads

    def load(self, checkpoint: Checkpoint) -> None:
        """Brings every weight into the arena and faults the rest of it in.

        Raises:
            CheckpointError: missing or misshapen tensors, before anything is read.
        """
        checkpoint.check()
        if not self._debug:
            self._library.eet_touch(self._engine, self._base, self._plan.arena_bytes)
        for weight in weights_of(self._spec):
            self._load_weight(checkpoint, weight)

    def run(self, step: Step) -> Int32:
        """Runs the whole program; the head and the sampler only where rows are wanted.

        Raises:
            NumericsError: a wanted row's logits are not finite; in debug mode, an op's output is not.
        """
        last = len(self._program.ops) - (0 if len(step.wanted) else 2)
        if not self._debug:
            return check_drawn(self.run_ops(step, 0, last), step.sample_rows)
        sampled = np.zeros(0, np.int32)
        for index, op in enumerate(self._program.ops[:last]):
            sampled = self.run_ops(step, index, index + 1)
            self._check_numbers(op, step)
        self.check_guards()
        return sampled

    def _check_numbers(self, op: p.Op, step: Step) -> None:
        for name in op.writes:
            if name == p.TOKEN_IDS:
                continue
            rows = len(step.wanted) if name == p.LOGITS else step.rows
            if not np.isfinite(self.view(name, (rows, self._program.buffer_width(name)))).all():
                raise NumericsError(f"{op.name} wrote NaN or infinity into {name}")

    def run_ops(self, step: Step, first: int, last: int) -> Int32:
        """Runs ops first .. last; int32 (n,) the tokens sampled, if `sample` is among them."""
        sampled = np.zeros(len(step.wanted), np.int32)
        row_caches = np.repeat(step.cache_rows, np.diff(step.row_starts))
        record = records.Step(
            rows=step.rows,
            batch=step.batch,
            wanted=len(step.wanted),
            top_k=step.sampling.top_k,
            temperature=step.sampling.temperature,
            top_p=step.sampling.top_p,
            seed=step.sampling.seed,
            token_ids=step.token_ids.ctypes.data,
            positions=step.positions.ctypes.data,
            row_caches=row_caches.ctypes.data,
            row_starts=step.row_starts.ctypes.data,
            wanted_rows=step.wanted.ctypes.data,
            sample_rows=step.sample_rows.ctypes.data,
            sample_steps=step.sample_steps.ctypes.data,
            sampled=sampled.ctypes.data,
        )
        self._library.eet_run(self._engine, ctypes.byref(record), first, last)
        return sampled

    def decode(self, step: Step, count: int, stop: frozenset[int]) -> Generator[tuple[Int32, int]]:
        return decode_on_host(self.run, step, count, stop)

    def head(self, wanted: Int32) -> Float32:
        none = np.empty(0, np.int32)
        starts = np.zeros(1, np.int32)
        step = Step(none, none, starts, none, none, wanted, none, none, GREEDY)
        ops = len(self._program.ops)
        self.run_ops(step, ops - 2, ops - 1)
        return self._arena.view(p.LOGITS, np.float32, (len(wanted), self._spec.vocab_size))

    def view(self, name: str, shape: tuple[int, ...] | None = None) -> Float32:
        """A block of the arena as float32, for tests and the curious."""
        return self._arena.view(name, np.float32, shape)

    def check_guards(self) -> None:
        """Raises AssertionError when an op wrote past its block (debug plans only)."""
        self._arena.check_guards()

    def measure_bandwidth_gb_s(self) -> float:
        """Best of a few passes in which the executor's threads read all weights."""
        size = self._plan.report.weights_bytes
        best = float("inf")
        for _ in range(BANDWIDTH_PASSES):
            start = time.perf_counter()
            self._library.eet_read(self._engine, self._base, size)
            best = min(best, time.perf_counter() - start)
        return size / best / 1e9

    def close(self) -> None:
        if self._engine:
            self._library.eet_destroy(self._engine)
            self._engine = None
        self._arena.close()

    def _load_weight(self, checkpoint: Checkpoint, weight: Weight) -> None:
        if weight.is_matrix and weight.name != POSITIONS:
            if (format := self._layout.format_of(weight.name)) in BLOCK_BYTES:
                self._load_blocks(checkpoint, weight, cast(WeightFormat, format))
            else:
                self._load_panels(checkpoint, weight, cast(Real, format))
            return
        target = self._arena.view(weight.name, np.float32)
        if weight.name == POSITIONS:
            for block in checkpoint.blocks(weight):
                start = block.start * weight.columns
                target[start : start + block.values.size] = block.values.ravel()
            return
        if target.size != weight.rows * max(1, weight.columns):
            target[:] = 0.0  # the rows that pad
        places = destinations(self._spec, weight)
        for block in checkpoint.blocks(weight):
            values = np.ascontiguousarray(block.values)
            rows: NDArray[np.int32] = places[block.part][block.start : block.start + len(values)]
            target[rows] = values

    def _load_panels(self, checkpoint: Checkpoint, weight: Weight, dtype: Real) -> None:
        target = self._arena.view(weight.name, np.float32 if dtype == "float32" else np.uint16)
        if target.size != weight.rows * weight.columns:
            target[:] = 0  # the rows that pad
        places = destinations(self._spec, weight)
        for block in checkpoint.blocks(weight):
            values = np.ascontiguousarray(rounded(block.values, dtype))
            if dtype == "float16" and not np.isfinite(values.view(np.float16)).all():
                name = weight.parts[block.part].tensor
                raise NumericsError(f"{name} holds values beyond float16's 65,504; choose bfloat16 or float32")
            rows: NDArray[np.int32] = places[block.part][block.start : block.start + len(values)]
            self._library.eet_fill_panels(
                target.itemsize, values.ctypes.data, len(values), weight.columns, rows.ctypes.data, target.ctypes.data
            )

    def _load_blocks(self, checkpoint: Checkpoint, weight: Weight, format: WeightFormat) -> None:
        target = self._arena.view(weight.name, np.uint8)
        if target.size != weight.rows * row_bytes(format, weight.columns):
            target[:] = 0  # the rows that pad
        places, code = destinations(self._spec, weight), records.FORMATS.index(format)
        for block in checkpoint.raw_blocks(weight):
            raw = np.ascontiguousarray(block.raw)
            rows: NDArray[np.int32] = places[block.part][block.start : block.start + len(raw)]
            self._library.eet_fill_block_panels(
                code, raw.ctypes.data, len(raw), weight.columns, rows.ctypes.data, target.ctypes.data
            )


def rounded(values: Float32, dtype: Real) -> NDArray[Any]:
    """The values in `dtype`, to nearest, ties to even: float32 as they are, the bits of the others as uint16."""
    if dtype == "float32":
        return values
    if dtype == "float16":
        with np.errstate(over="ignore"):
            return values.astype(np.float16).view(np.uint16)
    return to_bfloat16(values)


def _pieces(options: EngineOptions, formats: Mapping[str, WeightFormat]) -> int:
    """Bytes an activation becomes where the weight is quantised: 1 rounds it to 8 bits, 3 keep what float32 holds."""
    if options.quantised_activations and all(format == "dense" for format in formats.values()):
        raise UnsupportedError(
            "quantised_activations rounds what is multiplied with quantised weights, and these weights are dense; "
            "choose weights 'q8_0' or 'packed', or leave the option off"
        )
    return 1 if options.quantised_activations else 3


def _threads(options: EngineOptions) -> int:
    threads = options.threads or usable_cores()
    if not 1 <= threads <= records.MAX_THREADS:
        raise UnsupportedError(f"{threads} threads asked for; the CPU executor runs 1 to {records.MAX_THREADS}")
    return threads
