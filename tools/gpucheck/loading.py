"""`loading`: from nothing to the first token, with and without compiled kernels; and a checkpoint read from a file."""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from eet_demo.engine.families import weights_of
from eet_demo.engine.random_weights import RandomCheckpoint
from eet_demo.engine.shapes import PREFIX, config_of
from tools.gpucheck import processes
from tools.gpucheck.benches import SHORT, bench, machine
from tools.gpucheck.parts import Context, Record

SHAPE = "smollm2-135m"


def loading(context: Context) -> Record:
    """First token with an empty kernel cache, then with the one this filled; both with weights read from a file."""
    folder = context.settings.out / "models" / SHAPE
    write_random_checkpoint(SHAPE, folder)
    caches = Path(tempfile.mkdtemp(prefix="gpucheck-kernels-"))
    try:
        return {name: first_token(context, str(folder), caches) for name in ("cold", "warm")}
    finally:
        shutil.rmtree(caches)


def first_token(context: Context, model: str, kernel_cache: Path) -> Record:
    """`first_token.probe` in a process whose kernels are cached in `kernel_cache`."""
    settings = context.settings
    found: Record = processes.run_module(
        "tools.gpucheck.first_token",
        [model, settings.device, settings.dtype],
        context.left_s(),
        prefix=["env", f"CUPY_CACHE_DIR={kernel_cache}"],
    )
    return found


def parity(context: Context) -> Record:
    """Engine and stock on one and the same checkpoint of random weights: do they write the same?"""
    folder = context.settings.out / "models" / SHAPE
    write_random_checkpoint(SHAPE, folder)
    real = context.settings.real.get(SHAPE, folder)
    with machine() as resources:
        result = bench(context, resources, SHAPE, ("stock", "engine"), SHORT | {"model": str(real)})
    return {"decode": result, "parity": result["parity"]}


def write_random_checkpoint(shape: str, folder: Path) -> None:
    """A Hugging Face folder of the shape's random weights in float16, unless it is there already."""
    if (folder / "config.json").is_file():
        return
    config: dict[str, Any] = config_of(PREFIX + shape) or {}
    checkpoint = RandomCheckpoint(config, shape)
    tensors: dict[str, np.ndarray] = {}
    for weight in weights_of(checkpoint.spec):
        blocks = list(checkpoint.blocks(weight))
        for index, part in enumerate(weight.parts):
            values = np.concatenate([block.values for block in blocks if block.part == index]).astype(np.float16)
            tensors[part.tensor] = np.ascontiguousarray(values.T if part.transposed else values)
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
