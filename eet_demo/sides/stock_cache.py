"""What transformers' caches hold, by the shapes of their tensors: layers with a window keep less than the others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class CacheLayer:
    """One layer. `slot_bytes` are those of one token's keys and values; a `window` is as in the config, None without.

    A DynamicCache keeps `window - 1` slots, which the next token completes; a StaticCache has `window` of them.
    """

    slot_bytes: int
    window: int | None

    def bytes_of(self, slots: int) -> int:
        """Of the latest `slots` that lie in the window."""
        return self.slot_bytes * (slots if self.window is None else min(slots, self.window))

    def kept_bytes(self, slots: int) -> int:
        """Of a DynamicCache that has seen `slots`."""
        return self.slot_bytes * (slots if self.window is None else min(slots, self.window - 1))


def cache_layers(cache: Any) -> tuple[CacheLayer, ...]:
    """The layers of a cache that holds one token of one row; not those that take another's keys or have none."""
    filled = [layer for layer in cache.layers if getattr(layer, "keys", None) is not None]
    return tuple(
        CacheLayer(layer.keys.nbytes + layer.values.nbytes, layer.sliding_window if layer.is_sliding else None)
        for layer in filled
    )


def dynamic_bytes(layers: Sequence[CacheLayer], prompt_slots: int, steps: int) -> tuple[int, int]:
    """(kept, held) bytes a row of a DynamicCache after `steps` tokens, the first of which is the prefill's.

    What a layer keeps is a view of what it was cut from: all of the prompt until the first decode step, then one slot
    more than it keeps.
    """
    seen = prompt_slots + max(0, steps - 1)
    kept = sum(layer.kept_bytes(seen) for layer in layers)
    held = sum(layer.slot_bytes * seen if steps <= 1 else layer.bytes_of(seen) for layer in layers)
    return kept, held
