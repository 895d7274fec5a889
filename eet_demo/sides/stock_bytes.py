"""Bytes that stock will need, estimated from its config and its weights' headers: nothing is loaded for it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from eet_demo.engine.dtypes import DTYPE_BYTES
from eet_demo.engine.families import spec_from_config, weights_of
from eet_demo.engine.families.defaults import DEFAULTS, settled
from eet_demo.engine.families.fields import Fields
from eet_demo.engine.shapes import config_of
from eet_demo.engine.tensor_files import read_json, tensors_in
from eet_demo.errors import CheckpointError, UnsupportedError
from eet_demo.sides.side import SideOptions

STOCK_RUNTIME_BYTES = 64 << 20
"""Thread pools and allocator arenas that appear with the first run: 40 to 60 MB with torch 2.13 on 2 threads."""


EAGER_ALONE = ("bloom", "gemma2", "gptj")
"""Architectures for which transformers has no other attention than the eager one."""


def stock_bytes(options: SideOptions) -> int:
    """An estimate of what stock needs: its weights, its KV cache and the largest moment of its prefill.

    The cache counts twice for one layer (`DynamicCache` concatenates), the logits once in the model's dtype and once in
    float32, eager attention by its whole score matrix, a ragged batch by its mask. A static cache is cut to the window
    of each layer; a dynamic one holds the whole prompt in every layer until the first decode step.
    """
    element = DTYPE_BYTES[options.dtype]
    config, elements = _config_and_elements(options.model_path)
    hidden, layers, heads = (config.count(_first(config, *names)) for names in _SIZES)
    inner = config.count("intermediate_size", config.count("n_inner", 4 * hidden))
    kv_heads = config.count("num_key_value_heads", heads)
    head_dim = config.count("head_dim", max(1, hidden // heads))
    slots = options.max_batch * options.max_context
    slot_kv = 2 * kv_heads * head_dim * element
    cached = options.max_batch * sum(_layer_slots(options, config, layers))
    activations = slots * (5 * inner + 8 * hidden) * element
    eager = options.side == "stock-eager" or config.model_type in EAGER_ALONE
    score_bytes = heads * (element + 4) if eager else int(options.max_batch > 1)
    scores = slots * options.max_context * score_bytes
    logits = options.max_batch * config.count("vocab_size") * (element + 4)
    weights = elements * element
    return int(weights + (cached + slots) * slot_kv + activations + scores + logits + STOCK_RUNTIME_BYTES)


def _layer_slots(options: SideOptions, config: Fields, layers: int) -> list[int]:
    """Slots of a row in each layer's cache; of a config that the engine cannot read, as if no layer had a window."""
    whole = [options.max_context] * layers
    if options.side != "stock-static":
        return whole
    try:
        windows = spec_from_config(config.values).windows
    except UnsupportedError:
        return whole
    return [min(options.max_context, window or options.max_context) for window in windows] or whole


def _config_and_elements(model: str) -> tuple[Fields, int]:
    """config.json, and values in all weights, of a model's folder or of `shape:NAME`."""
    shape = config_of(model)
    if shape is not None:
        elements = sum(weight.rows * max(1, weight.columns) for weight in weights_of(spec_from_config(shape)))
        return _fields(shape), elements
    return _fields(read_json(Path(model) / "config.json")), checkpoint_elements(Path(model))


def _fields(config: Mapping[str, Any]) -> Fields:
    """The config, with transformers' defaults where it is of an architecture whose defaults are known."""
    model_type = str(config.get("model_type", "missing"))
    return Fields(settled(config, model_type) if model_type in DEFAULTS else config, model_type)


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
    """Values in the weight files of a folder, from their headers alone."""
    return sum(math.prod(entry.shape) for entry in tensors_in(folder).values())
