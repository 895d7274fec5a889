"""Do both sides fit in memory at once, or each in its turn, or not at all? Decided before any weights are loaded."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from eet_demo.engine.checkpoint import read_header, read_json
from eet_demo.engine.families import spec_from_config, weights_of
from eet_demo.engine.families.fields import Fields
from eet_demo.engine.shapes import config_of
from eet_demo.errors import CheckpointError, EetError, MemoryPlanError
from eet_demo.race.lane import Lane
from eet_demo.sides.names import parse_side
from eet_demo.sides.side import SideOptions

STOCK_RUNTIME_BYTES = 64 << 20
"""Thread pools and allocator arenas that appear with the first run: 40 to 60 MB with torch 2.13 on 2 threads."""

ELEMENT_BYTES: Mapping[str, int] = {"float64": 8, "float32": 4, "float16": 2, "bfloat16": 2}


@dataclass(frozen=True)
class Residency:
    """Whether all sides stay loaded, what the page says about it, and the sides that cannot run here and why."""

    resident: bool
    notes: list[str] = field(default_factory=list)
    refused: dict[int, EetError] = field(default_factory=dict)


def decide(lanes: Sequence[Lane], available_bytes: int) -> Residency:
    """What fits: each lane needs its estimate, less what its worker holds; alone, it also has what the others hold.

    Args:
        lanes: with their processes started, so that what a bare process weighs is already out of `available_bytes`.

    Raises:
        EetError: no lane can run here, even alone; a MemoryPlanError has the figures.
    """
    needed: dict[int, int] = {}
    refused: dict[int, EetError] = {}
    for lane in lanes:
        try:
            needed[lane.index] = 0 if lane.over else max(0, side_bytes(lane.options) - lane.held_bytes)
            alone_bytes = available_bytes + sum(other.held_bytes for other in lanes if other is not lane)
            if needed[lane.index] > alone_bytes:
                refused[lane.index] = _too_large(lane.options, needed[lane.index], alone_bytes)
        except EetError as error:
            refused[lane.index] = error
    if len(refused) == len(lanes):
        raise next(iter(refused.values()))
    total = sum(size for index, size in needed.items() if index not in refused)
    if total <= available_bytes:
        return Residency(True, refused=refused)
    note = (
        f"both sides together need {_gib(total)} and {_gib(available_bytes)} are available: "
        "each is loaded for its turn and unloaded before the other"
    )
    return Residency(False, [note], refused)


EAGER_ALONE = ("bloom", "gemma2", "gptj")
"""Architectures for which transformers has no other attention than the eager one."""


def side_bytes(options: SideOptions) -> int:
    """Bytes a side will need beyond its bare process: the engine's plan, or an estimate of stock's.

    Raises:
        EetError: the model cannot be planned: an unsupported architecture, a broken checkpoint.
    """
    kind = parse_side(options.side).kind
    if kind == "scripted":
        return 0
    if kind == "engine":
        from eet_demo.sides.engine import planned_bytes

        return planned_bytes(options)
    return stock_bytes(options)


def stock_bytes(options: SideOptions) -> int:
    """An estimate of what stock needs: its weights, its KV cache and the largest moment of its prefill.

    The cache counts twice for one layer (`DynamicCache` concatenates), the logits once in the model's dtype and once in
    float32, eager attention by its whole score matrix, a ragged batch by its mask.
    """
    element = ELEMENT_BYTES[options.dtype]
    config, elements = _config_and_elements(options.model_path)
    hidden, layers, heads = (config.count(_first(config, *names)) for names in _SIZES)
    inner = config.count("intermediate_size", config.count("n_inner", 4 * hidden))
    kv_heads = config.count("num_key_value_heads", heads)
    head_dim = config.count("head_dim", max(1, hidden // heads))
    slots = options.max_batch * options.max_context
    layer_kv = 2 * slots * kv_heads * head_dim * element
    activations = slots * (5 * inner + 8 * hidden) * element
    eager = options.side == "stock-eager" or config.model_type in EAGER_ALONE
    score_bytes = heads * (element + 4) if eager else int(options.max_batch > 1)
    scores = slots * options.max_context * score_bytes
    logits = options.max_batch * config.count("vocab_size") * (element + 4)
    weights = elements * element
    return int(weights + layers * layer_kv + layer_kv + activations + scores + logits + STOCK_RUNTIME_BYTES)


def _config_and_elements(model: str) -> tuple[Fields, int]:
    """config.json, and values in all weights, of a model's folder or of `shape:NAME`."""
    shape = config_of(model)
    if shape is not None:
        elements = sum(weight.rows * max(1, weight.columns) for weight in weights_of(spec_from_config(shape)))
        return Fields(shape, str(shape["model_type"])), elements
    config = read_json(Path(model) / "config.json")
    return Fields(config, str(config.get("model_type", "missing"))), checkpoint_elements(Path(model))


_SIZES = (
    ("hidden_size", "n_embd", "n_embed"),
    ("num_hidden_layers", "n_layer"),
    ("num_attention_heads", "n_head"),
)


def _first(config: Fields, *names: str) -> str:
    """The first of the names that the config has."""
    for name in names:
        if config.has(name):
            return name
    raise CheckpointError(f"config.json names none of {', '.join(names)}")


def checkpoint_elements(folder: Path) -> int:
    """Values in all safetensors files of a folder, from their headers alone."""
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise CheckpointError(f"{folder} has no *.safetensors; a model folder holds config.json and *.safetensors")
    return sum(math.prod(entry.shape) for path in files for entry in read_header(path).values())


def _too_large(options: SideOptions, needed: int, available: int) -> MemoryPlanError:
    where = " on the GPU" if options.device == "cuda" else ""
    return MemoryPlanError(
        f"{options.side} needs {needed:,} bytes ({_gib(needed)}) for this model, context and batch; "
        f"{available:,} ({_gib(available)}) are available{where}. Choose a smaller model, context or batch."
    )


def _gib(size: int) -> str:
    return f"{size / 2**30:.2f} GiB"
