"""The parts there are, in the order they run: what says most comes first, for the time may be up before the last."""

from __future__ import annotations

from typing import Any

from tools.gpucheck import benches, loading, suite
from tools.gpucheck.environment import environment
from tools.gpucheck.parts import Context, Part, Record
from tools.gpucheck.processes import ProcessFailed, run_module

HEADLINES = ("gpt2", "smollm2-135m", "llama-3.2-1b", "llama-2-7b")
"""Measured against stock-static too, and first."""

OTHERS = (
    "gpt2-medium", "gpt2-large", "gpt2-xl", "tinyllama-1.1b", "gpt3-125m", "gpt3-350m", "gpt3-760m", "gpt3-1.3b",
    "gpt3-2.7b", "gpt3-6.7b", "gpt3-13b",
)  # fmt: skip

MICRO = ("launch", "graph", "barrier", "gemv", "copy", "context")

EET_WORK: dict[str, Any] = {"context": 512, "new_tokens": 512, "batch": 4}
"""The row of EET's table: batch 4, 512 tokens read, 512 written."""

SHORT_CONTEXT, LONG_CONTEXT = 128, 8128
"""8,128 and 64 new tokens are all of SmolLM2's 8,192 positions."""


def microbench(context: Context) -> Record:
    """Every microbenchmark, each in a process of its own; one that fails leaves the others."""
    found: Record = {}
    for name in MICRO:
        try:
            found[name] = run_module("tools.gpucheck.micro", [name], context.left_s())
        except ProcessFailed as error:
            found[name] = {"error": str(error)}
            context.tell(f"microbench {name}: {error}")
    if all("error" in figures for figures in found.values()):
        raise ProcessFailed(f"no microbenchmark ran: {found[MICRO[0]]['error']}")
    return found


Q8_S = (35, 40, 80, 300)
"""Random weights that are not dense are drawn and quantised on the host: a minute a billion."""

PRECISIONS = (("float16", "dense"), ("bfloat16", "dense"), ("float16", "q8_0"))


def precision(context: Context) -> Record:
    """What each of PRECISIONS changes in the logits of GPT-2 small and SmolLM2-135M."""
    return {
        f"{shape} {dtype} {weights}": run_module(
            "tools.gpucheck.precision",
            [benches.model_name(context, shape), context.settings.device, dtype, weights],
            context.left_s(),
        )
        for shape in HEADLINES[:2]
        for dtype, weights in PRECISIONS
    }


def all_parts() -> list[Part]:
    """Every part; the default ones together take about nine minutes on an H100."""
    parts = [Part("environment", "the GPU and the software", 10, environment)]
    for shape, seconds in zip(HEADLINES, (25, 30, 30, 45), strict=True):
        run = benches.decode_and_prefill(shape, with_ragged=True)
        parts.append(Part(f"model-{shape}", f"{shape}: decode and prefill against stock", seconds, run))
    parts += [
        Part("eet-table", "GPT-3 125M, batch 4, prompt 512 of 1,024: EET's row", 25,
             benches.decode("gpt3-125m", **EET_WORK)),
        Part("long-context", "SmolLM2-135M, the engine at context 8,128 and 128", 25,
             benches.contexts("smollm2-135m", SHORT_CONTEXT, LONG_CONTEXT)),
        Part("loading", "load time, and the first token with cold and warm kernels", 35, loading.loading),
        Part("microbench", "launches, graph nodes, barriers, streaming, copies, an empty context", 50, microbench),
        Part("tests", "the tests that need a GPU", 60, suite.tests),
    ]  # fmt: skip
    for shape, seconds in zip(HEADLINES, (35, 45, 40, 45), strict=True):
        static = benches.decode(shape, ("stock-static", "engine"))
        parts.append(Part(f"static-{shape}", f"{shape}: decode against stock-static, compiled", seconds, static))
    parts.append(Part("switches-gpt2", "gpt2: the engine with each switch off", 40, benches.switches("gpt2")))
    extra = [
        Part("parity", "stock and engine on the same weights: tokens compared", 30, loading.parity),
        Part("precision", "logits of each precision against float32 dense", 60, precision),
        Part("switches-smollm2-135m", "smollm2-135m: each switch off", 45, benches.switches("smollm2-135m")),
        Part("switches-long", "smollm2-135m at context 4,096: each switch off", 60,
             benches.switches("smollm2-135m", context=4096, new_tokens=64)),
        *(Part(f"trace-{shape}", f"{shape}: a race's trace", 25, benches.trace(shape)) for shape in HEADLINES),
        *(Part(f"model-{shape}", f"{shape}: decode and prefill against stock", 40, benches.decode_and_prefill(shape))
          for shape in OTHERS),
        *(Part(f"q8-{shape}", f"{shape}: decode with q8_0 weights against stock", seconds,
               benches.decode(shape, weights="q8_0")) for shape, seconds in zip(HEADLINES, Q8_S, strict=True)),
        Part("sanitizer", "compute-sanitizer on some of the GPU tests", 240, suite.sanitizer),
    ]  # fmt: skip
    return parts + [Part(part.name, part.title, part.estimate_s, part.run, default=False) for part in extra]
