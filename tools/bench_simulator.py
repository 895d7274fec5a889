"""How fast the simulator is: `python -m tools.bench_simulator`. Not a test: a busy machine would fail it.

The budget is twice a prototype's 22-29 ns a fiber switch, 50 us a 256-thread block reduction and 2.9 us an mma tile.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import typer

from eet_demo.engine.executors.cuda.compile.launch import Instance, LaunchConfig
from eet_demo.engine.executors.sim.launcher import SimLauncher

KERNELS = Path(__file__).parent
SOURCE = "simulator_speed"
REPEATS = 7


def best_s(device: SimLauncher, instance: Instance, config: LaunchConfig, arguments: tuple[Any, ...]) -> float:
    """Least of several runs, after one that compiles."""
    times = []
    for _ in range(REPEATS + 1):
        start = time.perf_counter()
        device.launch(instance, config, arguments)
        times.append(time.perf_counter() - start)
    return min(times[1:])


def main() -> None:
    """Print what a fiber switch, a GEMV and an mma tile cost in the simulator."""
    device = SimLauncher(folder=KERNELS)
    blocks = 200
    x, sums = device.upload(np.ones((blocks, 256), np.float32), "float32"), device.empty((blocks,), "float32")
    seconds = best_s(device, Instance(SOURCE, (256,), "reduce"), LaunchConfig(256, (blocks, 1, 1)), (x, sums))
    # 5 + 5 shuffles and 2 barriers, each of which 256 threads wait at
    print(
        f"block reduction, 256 threads: {seconds / blocks * 1e6:6.1f} us = "
        f"{seconds / blocks / 256 / 12 * 1e9:.1f} ns a switch"
    )
    n = 768
    for dtype in ("float16", "float32"):
        w, v = device.upload(np.ones((n, n), np.float32), dtype), device.upload(np.ones(n, np.float32), dtype)
        y = device.empty((n,), "float32")
        config = LaunchConfig(256, (n // 8, 1, 1))
        seconds = best_s(device, Instance(SOURCE, (dtype, 256), "gemv"), config, (w, v, y, np.int32(n)))
        print(f"GEMV {n} x {n} {dtype}: {seconds * 1e3:6.2f} ms = {n * n / seconds / 1e9:.2f} GMAC/s")
    out = device.empty((32,), "float32")
    seconds = best_s(device, Instance(SOURCE, ("float16",), "tiles"), LaunchConfig(32), (out, np.int32(1000)))
    print(f"mma m16n8k16: {seconds / 1000 * 1e6:6.2f} us = {2048 / (seconds / 1000) / 1e9:.2f} GMAC/s")


if __name__ == "__main__":
    typer.run(main)
