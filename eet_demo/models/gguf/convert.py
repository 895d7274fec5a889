"""A GGUF file as a plain float32 Hugging Face folder, converted once and in bounded memory.

`convert(gguf, folder)` writes `model.safetensors`, `config.json`, `generation_config.json`, `tokenizer.json` and
`tokenizer_config.json`. Tensors are dequantised piece by piece into a file whose header is written first, so the peak
is one layer's matrix and not one model.
"""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from eet_demo.models.gguf.config import hf_config, special_ids
from eet_demo.models.gguf.file import GgufFile, GgufTensor, damage_named
from eet_demo.models.gguf.tokenizer import tokenizer_files

Progress = Callable[[str, int, int], None]
"""`(stage, done, total)` with both counts in bytes; called often, must be cheap."""


def _write_safetensors(file: GgufFile, tensors: list[GgufTensor], target: Path, progress: Progress) -> None:
    """Header first, then tensor by tensor (the safetensors format: 8-byte length, JSON, data)."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for tensor in tensors:
        size = 4 * int(np.prod(tensor.shape))
        header[tensor.hf_name] = {"dtype": "F32", "shape": tensor.shape, "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    done = 0
    with target.open("wb") as out:
        out.write(struct.pack("<Q", len(text)) + text)
        for tensor in tensors:
            for block in file.blocks(tensor):
                done += out.write(block.data.cast("B"))
                progress("convert", done, offset)
        out.flush()
        os.fsync(out.fileno())


def convert(path: Path, folder: Path, progress: Progress = lambda stage, done, total: None) -> None:
    """Writes `path` into the existing `folder` as a float32 Hugging Face checkpoint.

    The caller renames the folder into place when this returns; nothing here is atomic as a whole.

    Raises:
        CheckpointError: truncated, damaged or misshapen.
        UnsupportedError: an architecture, rotary scaling or tokenizer that is not supported; the message names it.
    """
    with damage_named(path):
        file = GgufFile(path)
        config = hf_config(file)
        files = tokenizer_files(file.value, path.name)
    tensors = [t for t in file.tensors if not (t.hf_name == "lm_head.weight" and config["tie_word_embeddings"])]
    _write_safetensors(file, tensors, folder / "model.safetensors", progress)
    files["config.json"] = json.dumps(config, indent=2)
    files["generation_config.json"] = json.dumps(special_ids(file), indent=2)
    for name, text in files.items():
        (folder / name).write_text(text, encoding="utf-8")
