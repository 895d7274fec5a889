"""Public model shapes by name, from their own `config.json`: for compile gates, and measurements without weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from eet_demo.engine.families import spec_from_config
from eet_demo.engine.spec import ModelSpec
from eet_demo.errors import RequestError

PREFIX = "shape:"
"""`shape:gpt2` is a model of that public shape with random weights, wherever a model is named."""


def _gpt2(hidden: int, layers: int, heads: int, positions: int = 1024, vocab: int = 50257) -> dict[str, Any]:
    return {"model_type": "gpt2", "n_embd": hidden, "n_layer": layers, "n_head": heads, "n_positions": positions,
            "vocab_size": vocab}  # fmt: skip


def _llama(
    hidden: int, intermediate: int, layers: int, heads: int, kv_heads: int, vocab: int = 32000, positions: int = 4096,
    tied: bool = False, model_type: str = "llama", **more: int,
) -> dict[str, Any]:  # fmt: skip
    return {"model_type": model_type, "hidden_size": hidden, "intermediate_size": intermediate,
            "num_hidden_layers": layers, "num_attention_heads": heads, "num_key_value_heads": kv_heads,
            "vocab_size": vocab, "max_position_embeddings": positions, "rms_norm_eps": 1e-5,
            "tie_word_embeddings": tied} | more  # fmt: skip


_CONFIGS: dict[str, dict[str, Any]] = {
    "distilgpt2": _gpt2(768, 6, 12),
    "gpt2": _gpt2(768, 12, 12),
    "gpt2-medium": _gpt2(1024, 24, 16),
    "gpt2-large": _gpt2(1280, 36, 20),
    "gpt2-xl": _gpt2(1600, 48, 25),
    # EET's GPT-3 table (arXiv 2005.14165, table 2.1)
    "gpt3-125m": _gpt2(768, 12, 12, 2048),
    "gpt3-350m": _gpt2(1024, 24, 16, 2048),
    "gpt3-760m": _gpt2(1536, 24, 16, 2048),
    "gpt3-1.3b": _gpt2(2048, 24, 16, 2048),
    "gpt3-2.7b": _gpt2(2560, 32, 32, 2048),
    "gpt3-6.7b": _gpt2(4096, 32, 32, 2048),
    "gpt3-13b": _gpt2(5120, 40, 40, 2048),
    "smollm2-135m": _llama(576, 1536, 30, 9, 3, 49152, 8192, tied=True),
    "smollm2-360m": _llama(960, 2560, 32, 15, 5, 49152, 8192, tied=True),
    "smollm2-1.7b": _llama(2048, 8192, 24, 32, 32, 49152, 8192, tied=True),
    "qwen2.5-0.5b": _llama(896, 4864, 24, 14, 2, 151936, 32768, tied=True, model_type="qwen2"),
    "tinyllama-1.1b": _llama(2048, 5632, 22, 32, 4, 32000, 2048),
    "llama-3.2-1b": _llama(2048, 8192, 16, 32, 8, 128256, 131072, tied=True, head_dim=64),
    "llama-2-7b": _llama(4096, 11008, 32, 32, 32),
}

SHAPES: tuple[str, ...] = tuple(_CONFIGS)


def shape(name: str) -> ModelSpec:
    """The spec of a public model, without its weights; raises KeyError for a name not in SHAPES."""
    return spec_from_config(_CONFIGS[name])


def config_of(model: str | Path) -> dict[str, Any] | None:
    """`config.json` of `shape:NAME`; None for whatever does not begin so. Raises RequestError for an unknown NAME."""
    prefix, _, name = str(model).partition(":")
    if prefix + ":" != PREFIX:
        return None
    if name not in _CONFIGS:
        raise RequestError(f"no shape is called {name!r}; there are {', '.join(SHAPES)}")
    return dict(_CONFIGS[name])
