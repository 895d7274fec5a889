"""What every test of a CPU stem uses: a model of random weights on the executor, its arena open, and the tolerance."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eet_demo.engine.blocks import BLOCK_BYTES, BLOCK_VALUES, WeightFormat, dequantise
from eet_demo.engine.checkpoint import POSITIONS, Checkpoint, RawBlock, RowBlock
from eet_demo.engine.compile_spec import build_program
from eet_demo.engine.dtypes import Real, from_bfloat16
from eet_demo.engine.executors import Step
from eet_demo.engine.executors.cpu.executor import CpuExecutor, rounded
from eet_demo.engine.executors.cpu.layout import PANEL, CpuLayout
from eet_demo.engine.families import weights_of
from eet_demo.engine.plan import Limits, plan_memory
from eet_demo.engine.program import Op
from eet_demo.engine.spec import ModelSpec
from eet_demo.engine.weights import Weight
from eet_demo.records import EngineOptions, Sampling

Array = NDArray[Any]

EPS = float(np.finfo(np.float32).eps)
BLOCK_ROWS = 48
"""Rows a fake checkpoint hands over at a time: packing must not depend on where blocks end."""

THREADS = (1, 2, 3)


def llama(hidden: int = 64, heads: int = 4, kv_heads: int = 2, head_dim: int = 16, **fields: Any) -> ModelSpec:
    """One layer with rotary positions, RMSNorm and a gated MLP; `fields` replace any of it."""
    spec = ModelSpec(
        family="llama",
        vocab_size=331,
        hidden_size=hidden,
        num_layers=1,
        num_heads=heads,
        num_kv_heads=kv_heads,
        head_dim=head_dim,
        intermediate_size=176,
        max_positions=4096,
        norm="rms",
        norm_eps=1e-5,
        positions=("rotary",),
        mlp="gated",
        activation="silu",
        tied_head=True,
        rotary_dim=head_dim,
    )
    return replace(spec, **fields)


def gpt2(hidden: int = 64, heads: int = 4, **fields: Any) -> ModelSpec:
    """One layer with learned positions, LayerNorm, biases and a plain MLP."""
    plain = {
        "family": "gpt2",
        "norm": "layer",
        "positions": ("learned",),
        "mlp": "plain",
        "activation": "gelu_tanh",
        "rotary_dim": 0,
        "qkv_bias": True,
        "out_bias": True,
        "mlp_bias": True,
        "max_positions": 256,
    }
    return llama(hidden, heads, heads, hidden // heads, **(plain | fields))


def random_blocks(rng: np.random.Generator, rows: int, columns: int, format: WeightFormat) -> NDArray[np.uint8]:
    """Raw blocks of every value a file may hold: any quant, scales of both signs around 1 / sqrt(columns)."""
    raw = rng.integers(0, 256, (rows, columns // BLOCK_VALUES, BLOCK_BYTES[format]), dtype=np.uint8)
    scales = rng.normal(0, columns**-0.5 / (60 if format == "q8_0" else 5), raw.shape[:2]).astype(np.float16)
    raw[..., :2] = scales[..., None].view(np.uint8)
    if format == "q4_1":
        minima = (-7.5 * scales + rng.normal(0, columns**-0.5 / 8, scales.shape)).astype(np.float16)
        raw[..., 2:4] = minima[..., None].view(np.uint8)
    return raw.reshape(rows, -1)


def held(values: Array, dtype: Real) -> Array:
    """The nearest float32 that `dtype` holds too."""
    if dtype == "float32":
        return values
    bits = rounded(values, dtype)
    return bits.view(np.float16).astype(np.float32) if dtype == "float16" else from_bfloat16(bits)


class RandomCheckpoint(Checkpoint):
    """Random weights in the places a checkpoint would have them. Matrices keep sums near 1, vectors are around 1.

    Matrices are stored in `format` where their columns fill its blocks; they hold numbers that `dtype` holds.
    """

    def __init__(self, spec: ModelSpec, seed: int, format: WeightFormat = "dense", dtype: Real = "float32") -> None:
        rng = np.random.default_rng(seed)
        self._parts: dict[str, list[Array]] = {}
        self._raw: dict[str, list[Array]] = {}
        self.formats: dict[str, WeightFormat] = {}
        for weight in weights_of(spec):
            fits = weight.is_matrix and weight.columns % BLOCK_VALUES == 0 and weight.name != POSITIONS
            self.formats[weight.name] = format if fits else "dense"
            if self.formats[weight.name] != "dense":
                raw = [random_blocks(rng, part.rows, weight.columns, format) for part in weight.parts]
                self._raw[weight.name] = raw
                self._parts[weight.name] = [dequantise(rows, format) for rows in raw]
                continue
            shapes = [(part.rows, weight.columns) if weight.is_matrix else (part.rows,) for part in weight.parts]
            spread, centre = (weight.columns**-0.5, 0.0) if weight.is_matrix else (0.2, 1.0)
            parts = [rng.normal(centre, spread, shape).astype(np.float32) for shape in shapes]
            self._parts[weight.name] = [held(part, dtype) if weight.is_matrix else part for part in parts]

    def check(self) -> None:
        pass

    def blocks(self, weight: Weight) -> Iterator[RowBlock]:
        for index, part in enumerate(self._parts[weight.name]):
            for start in range(0, len(part), BLOCK_ROWS):
                yield RowBlock(index, start, part[start : start + BLOCK_ROWS])

    def raw_blocks(self, weight: Weight) -> Iterator[RawBlock]:
        for index, part in enumerate(self._raw[weight.name]):
            for start in range(0, len(part), BLOCK_ROWS):
                yield RawBlock(index, start, part[start : start + BLOCK_ROWS])

    def canonical(self, weight: Weight) -> Array:
        """The weight as the reference holds it: parts one after the other, or gate and up rows alternating."""
        parts = self._parts[weight.name]
        return np.stack(parts, axis=1).reshape(-1, *parts[0].shape[1:]) if weight.interleaved else np.concatenate(parts)


class Rig:
    """One random model on the CPU executor, in debug mode: memory is poisoned and guarded."""

    def __init__(
        self,
        spec: ModelSpec,
        limits: Limits,
        threads: int,
        seed: int = 0,
        flags: Sequence[str] = (),
        format: WeightFormat = "dense",
        quantised_activations: bool = False,
        dtype: Real = "float32",
    ) -> None:
        self.spec, self.limits = spec, limits
        self.program = build_program(spec)
        self.checkpoint = checkpoint = RandomCheckpoint(spec, seed, format, dtype)
        formats = checkpoint.formats
        self.plan = plan = plan_memory(self.program, CpuLayout(formats, dtype), limits, guard_bytes=64)
        options = EngineOptions(threads=threads, debug=True, quantised_activations=quantised_activations)
        self.executor = CpuExecutor(self.program, plan, options, flags=flags, formats=formats, dtype=dtype)
        self.executor.load(checkpoint)
        self._weights = {weight.name: checkpoint.canonical(weight) for weight in weights_of(spec)}

    def weight(self, name: str | None, dtype: Any = np.float64) -> Any:
        return None if name is None else self._weights[name].astype(dtype)

    def op(self, name: str) -> Any:
        return next(op for op in self.program.ops if op.name == name)

    def run(self, op: Op, step: Step) -> Array:
        """Runs one op; returns what it sampled."""
        index = self.program.ops.index(op)
        sampled = self.executor.run_ops(step, index, index + 1)
        self.executor.check_guards()
        return sampled

    def put(self, name: str, values: Array) -> None:
        self.executor.view(name, values.shape)[...] = values

    def get(self, name: str, shape: tuple[int, ...]) -> Array:
        return self.executor.view(name, shape).copy()

    def cache(self, row: int, head: int) -> tuple[Array, Array]:
        """Writable views of one head's keys, flat, and values, (max_context, head_dim)."""
        spec, limits = self.spec, self.limits
        shape = (2, limits.max_batch, spec.num_kv_heads, limits.max_context * spec.head_dim)
        keys, values = self.executor.view("kv_cache", shape)[:, row, head]
        return keys, values.reshape(limits.max_context, spec.head_dim)

    def key_tiles(self, keys: Array) -> Iterator[tuple[slice, Array]]:
        """Each tile of a head's keys: its slots and its view (head_dim, slots)."""
        for start in range(0, self.limits.max_context, PANEL):
            stop = min(start + PANEL, self.limits.max_context)
            tile = keys[start * self.spec.head_dim : stop * self.spec.head_dim]
            yield slice(start, stop), tile.reshape(self.spec.head_dim, stop - start)


@contextmanager
def rig(
    spec: ModelSpec, threads: int, rows: int = 256, batch: int = 4, context: int = 256, seed: int = 0, **stored: Any
) -> Iterator[Rig]:
    """A rig for passes of at most `rows` rows, closed at the end; `stored` as Rig's format and activations."""
    loaded = Rig(spec, Limits(batch, context, rows), threads, seed, **stored)
    try:
        yield loaded
    finally:
        loaded.executor.close()


def int32(values: Sequence[int] | Array) -> NDArray[np.int32]:
    return np.ascontiguousarray(values, np.int32)


def step_of(
    rows: Sequence[int],
    cached: Sequence[int] | None = None,
    wanted: Sequence[int] = (),
    sampling: Sampling | None = None,
    vocab_size: int = 331,
    cache_rows: Sequence[int] | None = None,
) -> Step:
    """A pass of `rows[b]` rows of sequence b after `cached[b]` filled slots; token ids are random."""
    starts = np.cumsum([0, *rows])
    cached = list(cached) if cached is not None else [0] * len(rows)
    positions = np.concatenate([np.arange(slots, slots + count) for slots, count in zip(cached, rows, strict=True)])
    return Step(
        token_ids=int32(np.random.default_rng(len(positions)).integers(0, vocab_size, len(positions))),
        positions=int32(positions),
        row_starts=int32(starts),
        cache_rows=int32(range(len(rows)) if cache_rows is None else cache_rows),
        cache_starts=int32(cached),
        wanted=int32(wanted),
        sample_rows=int32(range(len(wanted))),
        sample_steps=int32([7] * len(wanted)),
        sampling=sampling or Sampling(),
    )


def assert_accurate(got: Array, exact: Array, numpy32: Array, terms: Array | float, **parameters: Any) -> None:
    """Error at most twice NumPy float32's own, plus a random walk's: a chain of n rounded multiply-adds strays by about
    eps/3 of the sum of its terms' sizes, so 2 eps is six deviations; norm, bias and activation add as much again.

    Args:
        exact: the reference in float64. numpy32: the same in float32.
        terms: largest sum of |x w| an output adds up.
    """
    assert got.shape == exact.shape, f"{got.shape} for {exact.shape}: {parameters}"
    error = np.abs(got.astype(np.float64) - exact)
    allowed = 2 * np.abs(numpy32.astype(np.float64) - exact).max() + 4 * EPS * (
        float(np.max(terms)) + np.abs(exact).max()
    )
    worst = np.unravel_index(np.argmax(np.where(np.isnan(error), np.inf, error)), error.shape)
    assert error[worst] <= allowed, f"error {error[worst]:.3g} at {worst}, allowed {allowed:.3g}: {parameters}"
