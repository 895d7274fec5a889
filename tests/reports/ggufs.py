"""A tiny llama as a GGUF with metadata of the report's own, and what becomes of it."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from eet_demo.models.gguf.convert import convert
from tests.gguf_files import random_model, write_gguf

UNSAID = {"llama.rope.scaling.type": None, "llama.rope.scaling.factor": None}


@cache
def tiny_llama() -> PreTrainedModel:
    return random_model("llama", num_hidden_layers=2)


def gguf_with(folder: Path, **metadata: Any) -> Path:
    """`__` in a name stands for a dot: `llama__rope__scale_linear=4.0`."""
    named = {name.replace("__", "."): value for name, value in metadata.items()}
    return write_gguf(folder / "tiny.gguf", tiny_llama(), metadata=named)


def converted(folder: Path, **metadata: Any) -> Path:
    """The model folder that the file becomes."""
    made = folder / "made"
    made.mkdir()
    convert(gguf_with(folder, **metadata), made)
    return made


def config_of(folder: Path, **metadata: Any) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((converted(folder, **metadata) / "config.json").read_text())
    return found
