"""What transformers' caches really hold."""

from __future__ import annotations

from typing import Any


def cache_bytes(cache: Any, seen: int) -> tuple[int, int]:
    """(used, held) bytes after `seen` tokens: what lies in the tensors and, of views, all that they keep alive."""
    used = held = 0
    for layer in cache.layers:
        for tensor in (layer.keys, layer.values):
            slots = min(seen, tensor.shape[2])
            used += tensor[:, :, :slots].numel() * tensor.element_size()
            held += tensor.untyped_storage().nbytes()
    return used, held
