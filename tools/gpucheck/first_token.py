"""How soon a model answers: `python -m tools.gpucheck.first_token MODEL DEVICE DTYPE` writes one line of JSON.

A process of its own, so that loading, compiling and the first pass are all there is; the parent names a kernel cache.
"""

from __future__ import annotations

import importlib
import json
import sys
import time
from pathlib import Path
from typing import Any

from eet_demo.engine.engine import Engine

PROMPT_TOKENS = 32
NEW_TOKENS = 8
CONTEXT = 128


def probe(model: str, device: str, dtype: str) -> dict[str, Any]:
    """Seconds from the call of `from_pretrained` in a process that has imported and set up what any model needs.

    Allocations are counted over a second run of the same request.
    """
    set_up(device)
    begin_s = time.perf_counter()
    engine = Engine.from_pretrained(model, device=device, dtype=dtype, max_batch=1, max_context=CONTEXT)
    loaded_s = time.perf_counter()
    prompt = [list(range(1, PROMPT_TOKENS + 1))]
    stream = engine.stream(prompt, NEW_TOKENS)
    next(stream)
    first_s = time.perf_counter()
    for _ in stream:
        pass
    before = allocations(device)
    again_s = time.perf_counter()
    next(second := engine.stream(prompt, NEW_TOKENS))
    warm_s = time.perf_counter() - again_s
    for _ in second:
        pass
    weights_bytes = engine.memory.weights_bytes
    after = allocations(device)
    engine.close()
    return {
        "load_s": loaded_s - begin_s,
        "first_token_s": first_s - begin_s,
        "first_pass_s": first_s - loaded_s,
        "next_first_token_s": warm_s,
        "weights_bytes": weights_bytes,
        "file_bytes": file_bytes(model),
        "load_bytes_per_s": weights_bytes / (loaded_s - begin_s),
        "allocations_in_second_run": {name: after[name] - before[name] for name in after},
    }


def set_up(device: str) -> None:
    """Imports what the device needs and makes its context: a process's cost, whatever it loads then."""
    if device == "cuda":
        devices: Any = importlib.import_module("eet_demo.engine.executors.cuda.runtime.devices")
        devices.require_gpu()
        devices.torch.zeros(1, device="cuda")


def allocations(device: str) -> dict[str, int]:
    """How often torch has been asked for device memory, and has asked the driver; empty without a GPU."""
    if device != "cuda":
        return {}
    torch: Any = importlib.import_module("torch")
    stats = torch.cuda.memory_stats()
    return {"torch": int(stats["allocation.all.allocated"]), "driver": int(stats["segment.all.allocated"])}


def file_bytes(model: str) -> int | None:
    """Bytes of the folder's safetensors; None for random weights."""
    folder = Path(model)
    return sum(path.stat().st_size for path in folder.glob("*.safetensors")) if folder.is_dir() else None


if __name__ == "__main__":
    print(json.dumps(probe(*sys.argv[1:4])))
