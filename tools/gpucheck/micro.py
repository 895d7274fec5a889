"""Microbenchmarks, each in a process of its own: `python -m tools.gpucheck.micro NAME` writes one line of JSON.

What is timed is what the engine does: launches through CupyLauncher, projections through their own launchers, CUDA
graphs through torch. A figure is the median of several rounds, each long enough for CUDA events.
"""

from __future__ import annotations

import importlib
import json
import math
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from eet_demo.engine.blocks import quantise_q8_0
from eet_demo.engine.executors.cuda.arrays import DType
from eet_demo.engine.executors.cuda.compile.launch import Instance, LaunchConfig, Launcher
from eet_demo.engine.executors.cuda.launchers.linear_residual import linear_residual
from eet_demo.engine.executors.cuda.launchers.matrices import Matrix, WeightFormat, upload_blocks, upload_dense
from eet_demo.engine.shapes import shape
from eet_demo.engine.spec import ModelSpec
from tools.gpucheck.clock import Clock, TorchClock, Work

BENCH_SOURCES = Path(__file__).parent
GRAPH_NODES = 400
HOST_LAUNCHES = 500
BARRIERS = 1000
BLOCK_THREADS = 256
COPY_BYTES = 2 << 30
BEYOND_CACHE_BYTES = 256 << 20
"""Weights that a round reads before it comes to the first again: five times the L2 cache of an H100."""

GEMV_MODELS = ("gpt2", "gpt2-xl", "smollm2-135m", "llama-3.2-1b", "llama-2-7b")
"""Their projections are the shapes of the streaming benchmark."""

GEMV_FORMATS: tuple[WeightFormat, ...] = ("dense", "q8_0")

Figures = dict[str, Any]


def launch_cost(launcher: Launcher, clock: Clock) -> Figures:
    """Microseconds of one launch: on the host (returning at once) and on the device (a queue of them)."""
    one = _empty(launcher, 1)
    return {
        "host_us": 1e6 * clock.host_s(one, HOST_LAUNCHES),
        "queued_us": 1e6 * clock.device_s(_times(one, HOST_LAUNCHES)) / HOST_LAUNCHES,
    }


def graph_node_cost(launcher: Launcher, clock: Clock, blocks: int) -> Figures:
    """Microseconds a node of a chain of empty kernels in a CUDA graph: one block and `blocks`, without and with PDL."""
    found = {}
    for grid in (1, blocks):
        for overlaps in (False, True):
            chain = _times(_empty(launcher, grid, overlaps), GRAPH_NODES)
            name = f"{'pdl' if overlaps else 'plain'}_{grid}_blocks_us"
            found[name] = 1e6 * clock.graph_s(chain) / GRAPH_NODES
    return found


def _empty(launcher: Launcher, blocks: int, overlaps: bool = False) -> Work:
    kernel, config = Instance("empty"), LaunchConfig(BLOCK_THREADS, (blocks, 1, 1), overlaps=overlaps)
    return lambda: launcher.launch(kernel, config, ())


def _times(work: Work, count: int) -> Work:
    def run() -> None:
        for _ in range(count):
            work()

    return run


def barrier_cost(launcher: Launcher, clock: Clock, blocks: int) -> Figures:
    """Microseconds of one grid barrier between `blocks` resident blocks, the launch's own cost taken off."""
    counter = launcher.upload(np.zeros(1), "uint32")
    config = LaunchConfig(BLOCK_THREADS, (blocks, 1, 1), cooperative=True)

    def barriers(count: int) -> Work:
        return lambda: launcher.launch(Instance("barriers"), config, (counter, np.int32(count)))

    seconds = clock.device_s(barriers(BARRIERS)) - clock.device_s(barriers(0))
    return {"blocks": blocks, "barrier_us": 1e6 * seconds / BARRIERS}


def projections(spec: ModelSpec) -> dict[str, tuple[int, int]]:
    """Name -> (rows, columns) of every projection of a decode step."""
    up = spec.intermediate_size * (2 if spec.mlp == "gated" else 1)
    return {
        "qkv": (spec.q_size + 2 * spec.kv_size, spec.hidden_size),
        "attention_out": (spec.hidden_size, spec.q_size),
        "up": (up, spec.hidden_size),
        "down": (spec.hidden_size, spec.intermediate_size),
        "head": (spec.vocab_size, spec.hidden_size),
    }


def streaming(
    launcher: Launcher, clock: Clock, n: int, k: int, dtype: DType, weights: WeightFormat, total_bytes: int
) -> Figures:
    """GB/s of weights that one row of activations streams through `linear_residual`.

    Copies of the weight, `total_bytes` together, are read one after the other, so that none is found in a cache.
    """
    generator = np.random.default_rng(0)
    values = generator.standard_normal((n, k), np.float32) * np.float32(0.02)
    upload = _uploader(launcher, values, dtype, weights)
    first = upload()
    size = first.values.nbytes + (first.scales.nbytes if first.scales is not None else 0)
    matrices = [first, *(upload() for _ in range(math.ceil(total_bytes / size) - 1))]
    x = launcher.upload(generator.standard_normal((1, k)), dtype)
    product = launcher.empty((1, n), dtype)

    def stream() -> None:
        for matrix in matrices:
            linear_residual(launcher, x, matrix, dtype=dtype, product=product)

    seconds = clock.graph_s(stream)
    return {"n": n, "k": k, "copies": len(matrices), "us": 1e6 * seconds / len(matrices),
            "gb_s": size * len(matrices) / seconds / 1e9}  # fmt: skip


def _uploader(launcher: Launcher, values: np.ndarray, dtype: DType, weights: WeightFormat) -> Callable[[], Matrix]:
    """Each call puts one more copy on the device; quantised on the host once."""
    if weights == "dense":
        return lambda: upload_dense(launcher, values, dtype)
    blocks = quantise_q8_0(values)
    return lambda: upload_blocks(launcher, blocks, weights)


def _gpu() -> tuple[Launcher, TorchClock, int]:
    """The launcher on torch's stream, the clock, and the number of multiprocessors."""
    from eet_demo.engine.executors.cuda.compile.cupy_launcher import CupyLauncher

    clock = TorchClock()
    torch: Any = importlib.import_module("torch")
    torch.cuda.init()
    launcher = CupyLauncher(stream=clock.stream, folder=BENCH_SOURCES)
    return launcher, clock, int(torch.cuda.get_device_properties(0).multi_processor_count)


def do_device() -> Figures:
    torch: Any = importlib.import_module("torch")
    if not torch.cuda.is_available():
        raise SystemExit(f"torch {torch.__version__} finds no CUDA device")
    cupy_launcher: Any = importlib.import_module("eet_demo.engine.executors.cuda.compile.cupy_launcher")
    device = torch.cuda.get_device_properties(0)
    return {
        "name": device.name,
        "compute_capability": f"{device.major}.{device.minor}",
        "multiprocessors": device.multi_processor_count,
        "memory_bytes": device.total_memory,
        "l2_cache_bytes": getattr(device, "L2_cache_size", None),
        "torch_cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
        "cupy_capability": cupy_launcher.CupyLauncher().capability,
    }


def do_launch() -> Figures:
    launcher, clock, _ = _gpu()
    return launch_cost(launcher, clock)


def do_graph() -> Figures:
    launcher, clock, blocks = _gpu()
    return graph_node_cost(launcher, clock, blocks)


def do_barrier() -> Figures:
    launcher, clock, blocks = _gpu()
    return barrier_cost(launcher, clock, blocks)


def do_gemv(dtype: DType = "float16") -> Figures:
    """Every projection of GEMV_MODELS, dense and q8_0."""
    from eet_demo.engine.executors.cuda.compile.cupy_launcher import CupyLauncher

    clock = TorchClock()
    found: Figures = {}
    launcher = CupyLauncher(stream=clock.stream)
    for model, name, n, k in _gemv_cases():
        for weights in GEMV_FORMATS:
            figures = streaming(launcher, clock, n, k, dtype, weights, BEYOND_CACHE_BYTES)
            found[f"{model} {name} {weights}"] = figures
    return found


def _gemv_cases() -> Iterator[tuple[str, str, int, int]]:
    seen = set()
    for model in GEMV_MODELS:
        for name, (n, k) in projections(shape(model)).items():
            if (n, k) not in seen:
                seen.add((n, k))
                yield model, name, n, k


def do_copy() -> Figures:
    """Device to device, bytes read and written both counted; and what a plain read of the memory reaches (a sum)."""
    torch: Any = importlib.import_module("torch")
    clock = TorchClock()
    source = torch.ones(COPY_BYTES // 4, dtype=torch.float32, device="cuda")
    target = torch.empty_like(source)
    copy_s = clock.device_s(lambda: target.copy_(source))
    sum_s = clock.device_s(lambda: torch.sum(source))
    return {"copy_gb_s": 2 * COPY_BYTES / copy_s / 1e9, "sum_gb_s": COPY_BYTES / sum_s / 1e9}


def do_context() -> Figures:
    """Bytes of device memory that a process takes before any model: torch's context, then CuPy's module and cuBLAS."""
    from eet_demo.engine.executors.cuda.compile.cupy_launcher import CupyLauncher
    from tools.gpucheck.environment import cuda_gpu

    torch: Any = importlib.import_module("torch")
    gpu = cuda_gpu()

    def used() -> int:
        found = gpu.used_bytes if gpu is not None else None
        if found is None:
            raise SystemExit("NVML does not answer: the memory of a context cannot be told")
        return found

    before = used()
    one = torch.zeros(1, device="cuda")
    torch.cuda.synchronize()
    context = used() - before
    launcher = CupyLauncher(folder=BENCH_SOURCES)
    _empty(launcher, 1)()
    launcher.synchronise()
    module = used() - before
    _ = one.reshape(1, 1) @ one.reshape(1, 1)
    torch.cuda.synchronize()
    return {"context_bytes": context, "with_module_bytes": module, "with_cublas_bytes": used() - before}


COMMANDS: dict[str, Callable[[], Figures]] = {
    "device": do_device,
    "launch": do_launch,
    "graph": do_graph,
    "barrier": do_barrier,
    "gemv": do_gemv,
    "copy": do_copy,
    "context": do_context,
}


def main() -> None:
    print(json.dumps(COMMANDS[sys.argv[1]]()))


if __name__ == "__main__":
    main()
