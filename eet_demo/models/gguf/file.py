"""A GGUF checkpoint, memory-mapped, its tensors under Hugging Face's names; values come as float32, piece by piece.

What llama.cpp's converter changed is undone here (github.com/ggml-org/llama.cpp, convert_hf_to_gguf.py):
- llama: rows of q and k are permuted from the half-split rotary layout to interleaved pairs, per head;
- gpt2: Conv1D weights are stored transposed.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from gguf.quants import dequantize

from eet_demo.errors import CheckpointError, UnsupportedError
from eet_demo.models.gguf.header import BLOCKS, read_header
from eet_demo.models.gguf.metadata import Metadata
from eet_demo.models.gguf.names import ARCHITECTURES, hf_name

_CONV1D = ("attn_qkv.weight", "attn_output.weight", "ffn_up.weight", "ffn_down.weight")
_BLOCK_BYTES = 8 << 20
_ROPE_FACTORS = "rope_freqs.weight"
_FLOATS: dict[str, np.dtype[Any]] = {"F32": np.dtype("<f4"), "F16": np.dtype("<f2"), "F64": np.dtype("<f8")}


@dataclass(frozen=True)
class GgufTensor:
    """One tensor of the file: `shape` in C order as Hugging Face has it, `data` still in its blocks."""

    name: str
    hf_name: str
    shape: tuple[int, ...]
    kind: str
    data: np.ndarray
    """memory-mapped blocks (or floats), rows first"""


class GgufFile:
    """A GGUF checkpoint of a supported architecture, memory-mapped.

    Raises:
        CheckpointError: not a GGUF, truncated, or a tensor that does not belong to the architecture.
        UnsupportedError: an architecture that this project does not run, one file of several, or values of a type that
            is not read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        header = read_header(path)
        self.metadata = Metadata(header.values, path.name)
        self.architecture = self.metadata.architecture
        if self.architecture not in ARCHITECTURES:
            raise UnsupportedError(
                f"{path.name} holds the architecture '{self.architecture or 'unnamed'}'; "
                f"GGUF files of {' and '.join(ARCHITECTURES)} can be converted."
            )
        self.metadata.refuse_what_is_not_known()
        self._header, self._bytes = header, np.memmap(path, np.uint8, "r")
        self.tensors = tuple(self._tensors())
        names = {tensor.hf_name for tensor in self.tensors}
        if len(names) != len(self.tensors):
            raise CheckpointError(f"{path} maps two tensors to one name; the file is broken.")

    def value(self, key: str, default: Any = None) -> Any:
        """A metadata value as Python int, float, bool, str or list; `default` where the file has none."""
        return self.metadata.value(key, default)

    def _tensors(self) -> Iterator[GgufTensor]:
        for name, entry in self._header.tensors.items():
            if name == _ROPE_FACTORS and self.architecture == "llama":  # goes into the config, see config.py
                continue
            shape = entry.shape
            if self.architecture == "gpt2" and name.endswith(_CONV1D):
                shape = shape[::-1]
            yield GgufTensor(name, self._hf_name(name), shape, entry.type, self._data(name))

    def _data(self, name: str) -> np.ndarray:
        entry = self._header.tensors[name]
        if entry.type not in BLOCKS:
            raise UnsupportedError(f"{self.path.name} stores {name} as {entry.type}; read are {', '.join(BLOCKS)}")
        raw = self._bytes[entry.offset : entry.offset + entry.nbytes]
        floats = _FLOATS.get(entry.type)
        if floats is not None:
            return raw.view(floats).reshape(entry.shape)
        return raw.reshape(*entry.shape[:-1], -1)

    def _hf_name(self, name: str) -> str:
        if (found := hf_name(self.architecture, name)) is not None:
            return found
        raise CheckpointError(f"{self.path} has a tensor '{name}' that a {self.architecture} model does not have.")

    def blocks(self, tensor: GgufTensor) -> Iterator[np.ndarray]:
        """float32 of `tensor.shape` in Hugging Face's layout, C-contiguous, a few megabytes of rows at a time.

        q and k of a llama and the matrices of a gpt2, whose rows change places, come whole.
        """
        if self.architecture == "llama" and (".attn_q." in tensor.name or ".attn_k." in tensor.name):
            heads = self.num_heads if ".attn_q." in tensor.name else self.num_kv_heads
            if tensor.shape[0] % (2 * heads):
                raise CheckpointError(f"{self.path} has {tensor.shape[0]} rows in {tensor.name} for {heads} heads.")
            yield np.ascontiguousarray(unpermute(self._floats(tensor, tensor.data), heads))
        elif self.architecture == "gpt2" and tensor.name.endswith(_CONV1D):
            yield np.ascontiguousarray(self._floats(tensor, tensor.data).T)
        else:
            step = max(1, _BLOCK_BYTES // (4 * int(np.prod(tensor.shape[1:]))))
            for start in range(0, tensor.shape[0], step):
                yield self._floats(tensor, tensor.data[start : start + step])

    def _floats(self, tensor: GgufTensor, rows: np.ndarray) -> np.ndarray:
        """float32 of some rows of the tensor's data."""
        return _as_float32(rows, tensor.kind)

    @property
    def num_heads(self) -> int:
        return self.metadata.count("attention.head_count")

    @property
    def num_kv_heads(self) -> int:
        return self.metadata.count("attention.head_count_kv", self.num_heads)

    def rope_factors(self) -> np.ndarray | None:
        """float32 (head_dim / 2,): what llama3 scaling divides each rotary frequency by; None without scaling."""
        if _ROPE_FACTORS not in self._header.tensors:
            return None
        return _as_float32(self._data(_ROPE_FACTORS), self._header.tensors[_ROPE_FACTORS].type)


def _as_float32(rows: np.ndarray, kind: str) -> np.ndarray:
    floats: np.ndarray = rows if kind in _FLOATS else dequantize(rows, gguf.GGMLQuantizationType[kind])
    return floats.astype(np.float32, copy=False)


@contextmanager
def damage_named(path: Path) -> Iterator[None]:
    """A reader that trips over bytes no GGUF has, in any of the ways Python can, found damage."""
    try:
        yield
    except (ValueError, TypeError, LookupError, ArithmeticError, MemoryError) as error:
        raise CheckpointError(f"{path} is truncated or damaged ({error}); delete it and fetch it again.") from error


def unpermute(rows: np.ndarray, num_heads: int) -> np.ndarray:
    """Rows of a llama q or k projection (or bias) from interleaved pairs back to the half-split rotary layout.

    The inverse of llama.cpp's `LlamaModel.permute`: within a head, row `2 * i + h` becomes row `h * head_dim / 2 + i`.

    Args:
        rows: (num_heads * head_dim, ...) float32.
    """
    pairs = rows.reshape(num_heads, rows.shape[0] // num_heads // 2, 2, *rows.shape[1:])
    return pairs.swapaxes(1, 2).reshape(rows.shape)
