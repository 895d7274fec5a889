"""Every vector width this machine can run computes the same model: 16, 8 and 4 lanes, fused multiply-add or not."""

from __future__ import annotations

import platform

import numpy as np
import pytest

from eet_demo.engine.blocks import WeightFormat
from eet_demo.engine.dtypes import Real
from eet_demo.engine.executors import Executor
from eet_demo.engine.executors.reference.executor import ReferenceExecutor, ReferenceLayout
from eet_demo.engine.plan import Limits, plan_memory
from eet_demo.machine.hardware import cpu_features
from tests.kernels.cpu_harness import Rig, assert_accurate, gpt2, llama, step_of

SPECS = {
    "llama": llama(80, 5, 1, 24, intermediate_size=88, vocab_size=1009),
    "gpt2": gpt2(72, 9, intermediate_size=136),
    "window": llama(windows=(9,), attention_soft_cap=3.0),
    "blocks": llama(96, 3, 1, 32, intermediate_size=160, vocab_size=1009),
}
LIMITS = Limits(max_batch=3, max_context=75, prefill_chunk=64)


def builds() -> dict[str, list[str]]:
    """Flags after -march=native, which they override."""
    if platform.machine() != "x86_64":
        return {"native": []}
    has = {
        "portable": True,
        "avx": "avx" in cpu_features(),
        "avx2": {"avx2", "fma"} <= cpu_features(),
        "avx512": {"avx512bw", "avx512vl"} <= cpu_features(),
        "avx-vnni": "avx_vnni" in cpu_features(),
    }
    arch = {
        "portable": "x86-64",
        "avx": "sandybridge",
        "avx2": "haswell",
        "avx512": "skylake-avx512",
        "avx-vnni": "alderlake",
    }
    return {"native": []} | {name: [f"-march={arch[name]}"] for name in arch if has[name]}


def logits_of(executor: Executor, vocab_size: int) -> np.ndarray:
    """(9, vocab_size): last rows of a ragged prefill, of a mixture, and of a decode step to the last slot."""
    results = []
    for rows, cached in (([1, 20, 33], [0, 0, 0]), ([1, 1, 41], [1, 20, 33]), ([1, 1, 1], [2, 21, 74])):
        step = step_of(rows, cached, wanted=(np.cumsum(rows) - 1).tolist(), vocab_size=vocab_size)
        executor.run(step)
        results.append(executor.head(step.wanted).copy())
    return np.concatenate(results)


def reference_logits(rig: Rig, dtype: str) -> np.ndarray:
    plan = plan_memory(rig.program, ReferenceLayout(dtype), LIMITS)
    executor = ReferenceExecutor(rig.program, plan, dtype, formats=rig.checkpoint.formats)
    executor.load(rig.checkpoint)
    return logits_of(executor, rig.spec.vocab_size)


@pytest.mark.parametrize("build", list(builds()))
@pytest.mark.parametrize(
    ("name", "format", "dtype"),
    [
        *((name, "dense", "float32") for name in SPECS if name != "blocks"),
        *(("blocks", format, "float32") for format in ("q8_0", "q4_0", "q4_1")),
        *(("gpt2", "dense", dtype) for dtype in ("float16", "bfloat16")),
    ],
)
def test_build_agrees_with_the_reference(name: str, build: str, format: WeightFormat, dtype: Real) -> None:
    """Quantised and halved weights against what they stand for: float32's accuracy, whatever the instructions."""
    rig = Rig(SPECS[name], LIMITS, threads=2, flags=builds()[build], format=format, dtype=dtype)
    try:
        got = logits_of(rig.executor, rig.spec.vocab_size)
    finally:
        rig.executor.close()
    exact, numpy32 = reference_logits(rig, "float64"), reference_logits(rig, "float32")
    assert_accurate(got, exact, numpy32, np.abs(exact).max() * 10, name=name, build=build, format=format, dtype=dtype)
