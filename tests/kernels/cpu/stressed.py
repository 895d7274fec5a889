"""The CPU executor in a stress build, a run a seed: `python -m tests.kernels.cpu.stressed SEED[,SEED...] FLAG...`.

A seed decides which members fall behind where (stress.h), and has a process of its own: a sanitizer ends it at its
first report. Prints `SEED: sampled DIGEST` or `SEED: ended with STATUS` for each.
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Sequence
from zlib import crc32

from eet_demo.engine.executors.cpu.compiler import library
from eet_demo.engine.plan import Limits
from eet_demo.records import Sampling
from tests.kernels.cpu_harness import Rig, llama, step_of

SPEC = llama(72, 3, 1, 24, num_layers=2, positions=("rotary", "rotary"), intermediate_size=88)
"""Two layers: the second writes again where the first has written."""

SAMPLINGS = (Sampling(0.9, top_k=20, seed=5), Sampling(), Sampling(1.1, top_p=0.8, seed=5), Sampling(1.0, seed=5))
LIMITS = Limits(max_batch=8, max_context=75, prefill_chunk=64)
PROMPTS = [1, 25, 33, 1, 1, 1, 1, 1]
ROUNDS = 4
THREADS = 3


def drive(seed: int, flags: Sequence[str]) -> int:
    """A prefill pass, then decode steps of eight rows and of one, with every kind of sampling; the tokens' digest."""
    rig = Rig(SPEC, LIMITS, THREADS, flags=flags)
    executor, ops = rig.executor, len(rig.program.ops)
    executor._library.eet_stress(ctypes.c_void_p(executor._engine), ctypes.c_uint64(seed))
    executor.run_ops(step_of(PROMPTS), 0, ops - 2)
    digest = 0
    for slot, sampling in enumerate(SAMPLINGS * ROUNDS):
        for rows in (len(PROMPTS), 1, 1):
            step = step_of([1] * rows, [prompt + slot for prompt in PROMPTS[:rows]], range(rows), sampling)
            digest = crc32(executor.run_ops(step, 0, ops).tobytes(), digest)
    executor.close()
    return digest


def main() -> None:
    seeds, *flags = sys.argv[1:]
    library(extra_flags=flags)
    for seed in map(int, seeds.split(",")):
        child = os.fork()
        if child == 0:
            print(f"{seed}: sampled {drive(seed, flags):08x}", flush=True)
            os._exit(0)
        if status := os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]):
            print(f"{seed}: ended with {status}", flush=True)


if __name__ == "__main__":
    main()
