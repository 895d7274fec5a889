"""The executor as a whole: what it refuses, what does not change its results, what it leaves behind."""

from __future__ import annotations

import ctypes
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from eet_demo.engine.compile_spec import build_program
from eet_demo.engine.executors import Step
from eet_demo.engine.executors.cpu.executor import BANDWIDTH_PASSES, CpuExecutor
from eet_demo.engine.executors.cpu.layout import CpuLayout
from eet_demo.engine.plan import Limits, plan_memory
from eet_demo.engine.spec import ModelSpec
from eet_demo.errors import NumericsError, UnsupportedError
from eet_demo.records import EngineOptions
from tests.kernels.cpu_harness import RandomCheckpoint, Rig, gpt2, int32, llama, rig, step_of

ROOT = Path(__file__).parents[3]
LIMITS = Limits(max_batch=2, max_context=64, prefill_chunk=32)


def executor_of(spec: ModelSpec, **options: int | bool) -> CpuExecutor:
    program = build_program(spec)
    return CpuExecutor(program, plan_memory(program, CpuLayout(), LIMITS), EngineOptions(**options))  # type: ignore[arg-type]


@pytest.mark.parametrize("threads", [-1, 65])
def test_senseless_thread_count_is_refused(threads: int) -> None:
    with pytest.raises(UnsupportedError, match="1 to 64"):
        executor_of(llama(), threads=threads)


def test_threads_that_cannot_be_started_are_refused() -> None:
    """In a process of its own, with room for the stacks of a few."""
    code = """
import resource
from pathlib import Path
from eet_demo.errors import UnsupportedError
from tests.kernels.cpu.test_executor import executor_of
from tests.kernels.cpu_harness import llama

executor_of(llama(), threads=1).close()
pages = int(Path("/proc/self/statm").read_text().split()[0])
resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + (48 << 20),) * 2)
try:
    executor_of(llama(), threads=64)
except UnsupportedError as error:
    print(error)
"""
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert result.stdout == "64 threads cannot be started on this machine; ask for fewer\n"


def test_load_faults_in_the_arena_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a library allocates for itself counts in the plan's total, and lies outside the mapping."""
    monkeypatch.setattr(CpuLayout, "library_bytes", 1 << 20)
    executor = executor_of(llama(), threads=1)
    library, touched = executor._library, []

    def touch(*arguments: int) -> None:
        touched.append(arguments)

    monkeypatch.setattr(executor, "_library", SimpleNamespace(eet_touch=touch, eet_fill_panels=library.eet_fill_panels))
    executor.load(RandomCheckpoint(llama(), seed=1))
    monkeypatch.undo()
    executor.close()
    ((_, base, size),) = touched
    assert (base, size) == (executor._base, executor._plan.arena_bytes)


def logits_of(loaded: Rig, step: Step) -> np.ndarray:
    loaded.executor.run(
        replace(step, wanted=int32(range(step.rows)), sample_rows=step.positions, sample_steps=step.positions)
    )
    return loaded.get("logits", (step.rows, loaded.spec.vocab_size))


@pytest.mark.parametrize("spec", [llama(576, 9, 3, 64), gpt2()], ids=["llama", "gpt2"])
def test_batch_does_not_change_a_row(spec: ModelSpec) -> None:
    """A decoded row's logits are the same bits alone and in a ragged batch, on one thread and on eight."""
    results = []
    for threads, together in ((1, True), (2, True), (2, False), (8, True)):
        with rig(spec, threads, context=128) as loaded:
            lengths = [70, 1, 23]
            loaded.executor.run(step_of(lengths))
            step = step_of([1, 1, 1], lengths)
            if together:
                results.append(logits_of(loaded, step))
                continue
            alone = []
            for b in range(3):
                one = step_of([1], [lengths[b]], cache_rows=[b])
                alone.append(logits_of(loaded, replace(one, token_ids=step.token_ids[b : b + 1])))
            results.append(np.concatenate(alone))
    assert np.isfinite(results[0]).all()
    assert all(np.array_equal(results[0], other) for other in results[1:])


def test_numbers_that_are_none_are_named_and_never_sampled_from() -> None:
    """A weight that turns NaN after loading (a broken memory, say): the row is named, in debug mode the op is."""
    spec = llama()
    program = build_program(spec)
    checkpoint = RandomCheckpoint(spec, 0)
    for debug, message in ((False, "logits of row 1 are NaN"), (True, r"layers\.0\.norm_mlp wrote NaN")):
        plan = plan_memory(program, CpuLayout(), LIMITS, guard_bytes=64 if debug else 0)
        executor = CpuExecutor(program, plan, EngineOptions(threads=2, debug=debug))
        executor.load(checkpoint)
        step = replace(step_of([3], wanted=[2]), sample_rows=int32([1]))
        assert 0 <= executor.run(step)[0] < spec.vocab_size
        executor.view("layers.0.mlp_norm.weight")[5] = np.nan
        with pytest.raises(NumericsError, match=message):
            executor.run(step)
        executor.close()


def test_idle_threads_sleep() -> None:
    """Members spin for a moment after a step and then cost nothing."""
    with rig(llama(), 8) as loaded:
        loaded.executor.run(step_of([3], wanted=[2]))
        time.sleep(0.05)
        before = time.process_time()
        time.sleep(0.4)
        assert time.process_time() - before < 0.1


def test_threads_wake_from_sleep() -> None:
    with rig(llama(), 3) as loaded:
        step = step_of([3], wanted=[2])
        first = loaded.executor.run(step)
        time.sleep(0.05)
        assert np.array_equal(loaded.executor.run(step), first)


def test_closing_twice_is_closing_once() -> None:
    executor = executor_of(llama())
    executor.close()
    executor.close()


def test_guards_catch_a_write_past_a_block() -> None:
    with rig(llama(), 1) as loaded:
        residual = loaded.executor.view("residual")
        beyond = np.ctypeslib.as_array((ctypes.c_uint8 * 1).from_address(residual.ctypes.data + residual.nbytes))
        beyond[0] ^= 0xFF
        with pytest.raises(AssertionError, match="ran past"):
            loaded.executor.run(step_of([3]))


def test_bandwidth_is_the_weights_in_the_time_of_the_best_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every pass reads all weights, down to the last whole item of 64 KiB, as the parity of what it read tells."""
    with rig(llama(576, 9, 3, 64, intermediate_size=1536, vocab_size=5000), 2) as loaded:
        executor, library = loaded.executor, loaded.executor._library
        size = loaded.plan.report.weights_bytes
        words = executor._arena.bytes[: size // 65536 * 65536].view(np.int32)
        passes: list[int] = []

        def read(engine: int, base: int, read_bytes: int) -> None:
            assert (base, read_bytes) == (executor._base, size)
            passes.append(library.eet_read(engine, base, read_bytes))

        ticks = iter([0.0, 3.0, 10.0, 10.5, 20.0, 22.0, 30.0, 31.0, 40.0, 44.0])
        with monkeypatch.context() as faked:
            faked.setattr(executor, "_library", SimpleNamespace(eet_read=read))
            faked.setattr(time, "perf_counter", lambda: next(ticks))
            assert executor.measure_bandwidth_gb_s() == size / 0.5 / 1e9
        assert passes == [np.bitwise_xor.reduce(words)] * BANDWIDTH_PASSES
