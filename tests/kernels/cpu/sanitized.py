"""The CPU executor under sanitizers, preloaded: `python -m tests.kernels.cpu.sanitized all|broken FLAG...`.

`all` drives every op and prints `sound` at the end; `broken` does on purpose what the sanitizer must catch. Under
AddressSanitizer the gaps between the plan's blocks are poisoned, so that reading past a block is caught too.
"""

from __future__ import annotations

import ctypes
import sys
import threading
from typing import Any

import numpy as np

from eet_demo.engine.plan import Limits
from eet_demo.records import Sampling
from tests.kernels.cpu_harness import Rig, gpt2, llama, step_of

SPECS = {
    "llama": llama(72, 3, 1, 24, intermediate_size=88, vocab_size=331),
    "window": llama(windows=(9,), attention_soft_cap=3.0, tied_head=False),
    "blocks": llama(96, 3, 1, 32, intermediate_size=160, vocab_size=331),
    "gpt2": gpt2(56, 7, intermediate_size=72, activation="gelu_erf"),
    "norms": llama(72, 3, 1, 24, family="gemma3_text", norm_placement="both", qk_norm="head", intermediate_size=88),
    "all-heads": llama(72, 3, 1, 24, family="olmo2", norm_placement="post", qk_norm="full", intermediate_size=88),
    "alibi": gpt2(56, 7, family="bloom", positions=("alibi",), embedding_norm=True, intermediate_size=72),
}
FORMATS: dict[str, tuple[dict[str, Any], ...]] = {
    "window": ({}, {"format": "q8_0"}, {"format": "q4_0", "quantised_activations": True}),
    "blocks": ({"format": "q4_1"}, {"format": "q8_0", "quantised_activations": True}),
    "gpt2": ({}, {"dtype": "float16"}, {"dtype": "bfloat16"}),
}
"""How weights and activations are stored; dense float32 where nothing is said."""

SAMPLINGS = (Sampling(), Sampling(1.0, seed=5), Sampling(0.9, top_k=20, seed=5), Sampling(1.1, top_p=0.8, seed=5))
CONTEXT = 75
"""No multiple of 16: the last tile of keys is narrow."""


def mark(rig: Rig, poisoned: bool) -> None:
    """Makes every byte of the arena that belongs to no block an error to touch, or all of it usable again."""
    verb = "poison" if poisoned else "unpoison"
    function = getattr(ctypes.CDLL(None), f"__asan_{verb}_memory_region")
    function.argtypes = ctypes.c_void_p, ctypes.c_size_t
    edges = sorted((block.offset, block.end) for block in rig.plan.blocks.values())
    base, reached = (
        rig.executor.view(min(rig.plan.blocks, key=lambda name: rig.plan.blocks[name].offset)).ctypes.data,
        0,
    )
    for offset, end in [*edges, (rig.plan.total_bytes, 0)]:
        if offset > reached:
            function(base + reached, offset - reached)
        reached = max(reached, end)


def drive(rig: Rig) -> None:
    """Ragged prefill in passes, a mixture, decode up to the last slot, every sampling, the head again."""
    executor, ops = rig.executor, len(rig.program.ops)
    executor.run_ops(step_of([1, 30, 33], wanted=[0]), 0, ops)
    executor.run_ops(step_of([3, 1], cached=[1, 30], wanted=[2, 3]), 0, ops)
    executor.run_ops(step_of([38], cached=[33], cache_rows=[2]), 0, ops - 2)
    for count, sampling in enumerate(SAMPLINGS):
        cached = [4 + count, 31 + count, CONTEXT - len(SAMPLINGS) + count]
        tokens = executor.run_ops(step_of([1, 1, 1], cached, [0, 1, 2], sampling), 0, ops)
        assert ((tokens >= 0) & (tokens < rig.spec.vocab_size)).all()
    assert np.isfinite(executor.head(np.array([2, 0], np.int32))).all()


def trespass(rig: Rig, address_sanitizer: bool) -> None:
    """Reads past a block, or runs two steps at once."""
    executor, ops = rig.executor, len(rig.program.ops)
    step = step_of([1, 30, 33], wanted=[0])
    if address_sanitizer:
        executor.measure_bandwidth_gb_s()  # reads the weights in one go, gaps and all
        return
    others = [threading.Thread(target=executor.run_ops, args=(step, 1, ops)) for _ in range(2)]
    for other in others:
        other.start()
    for other in others:
        other.join(timeout=5)


def main() -> None:
    what, *flags = sys.argv[1:]
    address_sanitizer = any("address" in flag for flag in flags)
    for threads in (1, 3):
        for spec, stored in [(spec, stored) for name, spec in SPECS.items() for stored in FORMATS.get(name, ({},))]:
            limits = Limits(max_batch=3, max_context=CONTEXT, prefill_chunk=64)
            rig = Rig(spec, limits, threads, flags=flags, **stored)
            if address_sanitizer:
                mark(rig, poisoned=True)
            if what == "broken":
                trespass(rig, address_sanitizer)
            drive(rig)
            if address_sanitizer:
                mark(rig, poisoned=False)
            rig.executor.close()
    print("sound")


if __name__ == "__main__":
    main()
