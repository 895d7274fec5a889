"""Quantised weights on the CPU: float32's accuracy with exact activations, the stated rounding with quantised ones."""

from __future__ import annotations

import numpy as np
import pytest

from eet_demo.engine.blocks import WeightFormat
from eet_demo.engine.compile_spec import build_program
from eet_demo.engine.dtypes import Real
from eet_demo.engine.executors.cpu.executor import CpuExecutor, rounded
from eet_demo.engine.executors.cpu.layout import CpuLayout
from eet_demo.engine.executors.reference import kernels as reference
from eet_demo.engine.families import weights_of
from eet_demo.engine.plan import Limits, plan_memory
from eet_demo.errors import NumericsError, UnsupportedError
from eet_demo.machine.hardware import cpu_features
from eet_demo.records import EngineOptions
from tests.kernels.cpu_harness import THREADS, Array, RandomCheckpoint, Rig, assert_accurate, gpt2, llama, rig, step_of

FORMATS: tuple[WeightFormat, ...] = ("q8_0", "q4_0", "q4_1")
SPECS = {
    "llama-32": llama(32, 2, 1, 16, intermediate_size=96),
    "llama-576": llama(576, 9, 3, 64, intermediate_size=1536, out_bias=True),
    "odd-panels": llama(96, 3, 1, 24, intermediate_size=352),
    "gpt2-160": gpt2(160, 5, intermediate_size=224, residual_scale=0.25),
}


def spread(rng: np.random.Generator, shape: tuple[int, int]) -> Array:
    """Activations as models have them: most small, some blocks with one value a thousand times as large, some zero."""
    x = rng.normal(0, 1, shape)
    x[:, 5::96] *= 1000
    x[:, 32:48] = 0.0
    return x.astype(np.float32)


def run_out(loaded: Rig, source: str, x: Array, residual: Array) -> Array:
    loaded.put(f"{source}.0", x)
    loaded.put("residual", residual)
    loaded.run(loaded.op(f"layers.0.linear_residual.{source}"), step_of([len(x)]))
    return loaded.get("residual", residual.shape)


def expected(loaded: Rig, source: str, x: Array, residual: Array, dtype: type) -> Array:
    op = loaded.op(f"layers.0.linear_residual.{source}")
    weight, bias = loaded.weight(op.out.weight, dtype), loaded.weight(op.out.bias, dtype)
    result: Array = reference.linear_residual(residual.astype(dtype), x.astype(dtype), weight, bias, op.scale)
    return result


def check(loaded: Rig, source: str, x: Array, **parameters: object) -> Array:
    op = loaded.op(f"layers.0.linear_residual.{source}")
    residual = np.random.default_rng(1).normal(0, 1, (len(x), op.out.out_features)).astype(np.float32)
    got = run_out(loaded, source, x, residual)
    exact, numpy32 = (expected(loaded, source, x, residual, dtype) for dtype in (np.float64, np.float32))
    # Q4_1 adds minimum * sum(x) to scale * sum(q x): terms of up to twice the size of the weights'.
    terms = 2 * np.abs(x) @ np.abs(loaded.weight(op.out.weight, np.float32)).T
    assert_accurate(got, exact, numpy32, terms, source=source, rows=len(x), **parameters)
    return got


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("name", list(SPECS))
def test_exact_activations_are_as_good_as_float32(name: str, format: WeightFormat) -> None:
    with rig(SPECS[name], 2, format=format) as loaded:
        for rows in (1, 2, 3, 7, 16, 17, 200):
            for source in ("attention", "hidden"):
                op = loaded.op(f"layers.0.linear_residual.{source}")
                x = spread(np.random.default_rng(rows), (rows, op.out.in_features))
                check(loaded, source, x, name=name, format=format)


@pytest.mark.parametrize("quantised", [False, True])
@pytest.mark.parametrize("format", FORMATS)
def test_same_bits_for_any_threads_and_rows(format: WeightFormat, quantised: bool) -> None:
    rng = np.random.default_rng(0)
    x, residual = spread(rng, (40, 1536)), rng.normal(size=(40, 576)).astype(np.float32)
    results = []
    for threads in THREADS:
        with rig(SPECS["llama-576"], threads, format=format, quantised_activations=quantised) as loaded:
            results.append(run_out(loaded, "hidden", x, residual))
            if threads == 2:
                alone = np.concatenate([run_out(loaded, "hidden", x[[i]], residual[[i]]) for i in range(40)])
    assert all(np.array_equal(results[0], other) for other in results[1:])
    if quantised or {"avx512_vnni", "avx_vnni", "asimddp"} & cpu_features():
        assert np.array_equal(results[0], alone)
    else:  # without instructions for products of bytes, passes of many rows multiply floats
        assert np.allclose(results[0], alone, rtol=1e-4, atol=1e-4 * np.abs(alone).max())


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("rows", [1, 5, 200])
def test_quantised_activations_that_fit_8_bits_are_exact(format: WeightFormat, rows: int) -> None:
    """Integers up to 127 times a power of two, 127 in every block: nothing is rounded away."""
    rng = np.random.default_rng(rows)
    with rig(SPECS["llama-576"], 2, format=format, quantised_activations=True) as loaded:
        x = rng.integers(-127, 128, (rows, 1536)).astype(np.float32)
        x[:, ::32] = 127 * rng.choice([-1, 1], (rows, 48))
        x *= np.repeat(2.0 ** rng.integers(-8, 3, (rows, 48)), 32, axis=1).astype(np.float32)
        check(loaded, "hidden", x, format=format)


@pytest.mark.parametrize("format", FORMATS)
def test_quantised_activations_stray_by_half_a_step_at_most(format: WeightFormat) -> None:
    rng = np.random.default_rng(3)
    with rig(SPECS["llama-576"], 2, format=format, quantised_activations=True) as loaded:
        x, residual = spread(rng, (9, 1536)), np.zeros((9, 576), np.float32)
        got = run_out(loaded, "hidden", x, residual)
        exact = expected(loaded, "hidden", x, residual, np.float64)
        steps = np.abs(x).reshape(9, -1, 32).max(axis=-1) / 127
        weight = np.abs(loaded.weight(loaded.op("layers.0.linear_residual.hidden").out.weight))
        allowed = 0.5 * np.repeat(steps, 32, axis=1) @ weight.T
        error = np.abs(got - exact)
        assert (error <= 1.001 * allowed + 1e-4).all()
        assert error.max() > 1e-3  # it does round


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("quantised", [False, True])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_a_number_stays_visible(format: WeightFormat, quantised: bool, bad: float) -> None:
    with rig(SPECS["llama-576"], 2, format=format, quantised_activations=quantised) as loaded:
        x = np.ones((3, 1536), np.float32)
        x[1, 700] = bad
        got = run_out(loaded, "hidden", x, np.zeros((3, 576), np.float32))
        assert not np.isfinite(got[1]).any()
        assert np.isfinite(got[[0, 2]]).all()


@pytest.mark.parametrize("format", FORMATS)
def test_tiny_and_huge_activations_lose_nothing(format: WeightFormat) -> None:
    rng = np.random.default_rng(4)
    with rig(SPECS["llama-576"], 2, format=format) as loaded:
        x = rng.normal(size=(4, 1536)).astype(np.float32)
        for factor in (2.0**-60, 2.0**-20, 2.0**60):
            scaled = np.float32(factor)
            got = run_out(loaded, "hidden", x * scaled, np.zeros((4, 576), np.float32))
            plain = run_out(loaded, "hidden", x, np.zeros((4, 576), np.float32))
            assert np.array_equal(got / scaled, plain)


@pytest.mark.parametrize("format", FORMATS)
def test_embedding_is_dequantised_exactly(format: WeightFormat) -> None:
    with rig(SPECS["odd-panels"], 2, format=format) as loaded:
        step = step_of([50])
        loaded.run(loaded.op("embed"), step)
        table = loaded.weight("embed.tokens", np.float32)
        got = loaded.get("residual", (50, 96))
        # scale * q + minimum is fused here and rounded twice there
        assert np.allclose(got, table[step.token_ids], rtol=1e-6, atol=2e-7)


@pytest.mark.parametrize("format", FORMATS)
def test_plan_has_the_file_s_bytes(format: WeightFormat) -> None:
    for weight in weights_of(SPECS["llama-576"]):
        if weight.is_matrix and weight.name != "embed.tokens":  # whose rows are padded to panels
            raw = weight.rows * weight.columns // 32 * {"q8_0": 34, "q4_0": 18, "q4_1": 20}[format]
            assert CpuLayout({weight.name: format}).weight_bytes(weight) == raw


def test_quantised_activations_need_quantised_weights() -> None:
    with (
        pytest.raises(UnsupportedError, match="these weights are dense"),
        rig(SPECS["llama-32"], 1, quantised_activations=True),
    ):
        pass


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("name", list(SPECS))
def test_halves_are_widened_exactly(name: str, dtype: Real) -> None:
    with rig(SPECS[name], 2, dtype=dtype) as loaded:
        for rows in (1, 2, 3, 7, 16, 17, 200):
            for source in ("attention", "hidden"):
                op = loaded.op(f"layers.0.linear_residual.{source}")
                x = spread(np.random.default_rng(rows), (rows, op.out.in_features))
                check(loaded, source, x, name=name, dtype=dtype)
        step = step_of([50])
        loaded.run(loaded.op("embed"), step)
        op = loaded.op("embed")
        table = loaded.weight(op.tokens, np.float32)[step.token_ids] * np.float32(op.scale)
        if op.positions:
            table = table + loaded.weight(op.positions, np.float32)[step.positions]
        assert np.allclose(loaded.get("residual", table.shape), table, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_halves_same_bits_for_any_threads_and_rows(dtype: Real) -> None:
    rng = np.random.default_rng(0)
    x, residual = spread(rng, (40, 1536)), rng.normal(size=(40, 576)).astype(np.float32)
    results = []
    for threads in THREADS:
        with rig(SPECS["llama-576"], threads, dtype=dtype) as loaded:
            results.append(run_out(loaded, "hidden", x, residual))
            results.append(np.concatenate([run_out(loaded, "hidden", x[[i]], residual[[i]]) for i in range(40)]))
    assert all(np.array_equal(results[0], other) for other in results[1:])


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_halves_are_rounded_as_torch_rounds(dtype: Real) -> None:
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    values = (rng.normal(size=5000) * 10.0 ** rng.integers(-6, 4, 5000)).astype(np.float32)
    expected = torch.from_numpy(values).to(getattr(torch, dtype)).view(torch.int16).numpy().view(np.uint16)
    assert np.array_equal(rounded(values, dtype), expected)


def test_values_beyond_float16_are_named() -> None:
    spec = SPECS["llama-32"]
    checkpoint = RandomCheckpoint(spec, 0)
    weight = next(weight for weight in weights_of(spec) if weight.name == "layers.0.down.weight")
    next(checkpoint.blocks(weight)).values[3, 4] = 7e4
    program = build_program(spec)
    plan = plan_memory(program, CpuLayout(dtype="float16"), Limits(1, 8, 8))
    executor = CpuExecutor(program, plan, EngineOptions(threads=1), dtype="float16")
    with pytest.raises(NumericsError, match=r"down_proj.*65,504"):
        executor.load(checkpoint)
    executor.close()
