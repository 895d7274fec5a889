"""How much there is to do in a step, in the numbers that ops turn into bytes moved and operations."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Work:
    """What one step does.

    Args:
        wanted: rows for the head.
        sequences: for each, the rows it adds and the slots its cache holds with them.
    """

    wanted: int
    sequences: tuple[tuple[int, int], ...]

    @staticmethod
    def decode(batch: int, context: int) -> Work:
        """One decode step of `batch` sequences whose caches hold `context` slots, the new one included."""
        return Work(batch, ((1, context),) * batch)

    @property
    def rows(self) -> int:
        return sum(rows for rows, _ in self.sequences)

    def cached_slots(self, window: int | None) -> int:
        """Slots that any row sees, each counted once: with a window the first row's lie farthest back."""
        if window is None:
            return sum(slots for _, slots in self.sequences)
        return sum(min(slots, rows + window - 1) for rows, slots in self.sequences)

    def attended_slots(self, window: int | None) -> int:
        """Slots that each row attends to, summed over the rows."""
        return sum(
            min(seen, window if window is not None else seen)
            for rows, slots in self.sequences
            for seen in range(slots - rows + 1, slots + 1)
        )


@dataclass(frozen=True)
class Bytes:
    """Bytes of one element: `activation` and `kv` in the compute dtype; residual and logits are float32."""

    activation: int = 4
    kv: int = 4
