"""Who is in memory, and who may come: whatever loads weights on this machine asks here first, every time."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

from eet_demo.errors import EetError, MemoryPlanError
from eet_demo.sides import build
from eet_demo.sides.side import SideOptions
from eet_demo.sizes import size_text
from eet_demo.worker.handle import WorkerHandle
from eet_demo.worker.pool import WorkerPool

REMEDY = "Choose a smaller model, context or batch."


@dataclass(frozen=True)
class Claim:
    """What a side would take.

    Args:
        needed_bytes: in all, beyond its bare process.
        handle: its worker, some of whose memory it may hold already; None before there is one.
    """

    options: SideOptions
    needed_bytes: int
    handle: WorkerHandle | None = None

    @property
    def held_bytes(self) -> int:
        return self.handle.held_bytes if self.handle is not None else 0

    @property
    def missing_bytes(self) -> int:
        """What it would still take."""
        return max(0, self.needed_bytes - self.held_bytes)


class Residents:
    """Grants memory to the workers of one pool.

    Available memory is what the machine has left at the moment of asking, less what those who share a race were
    granted and have not taken yet: stock's KV cache grows with the run.
    """

    def __init__(self, pool: WorkerPool, available_on: Callable[[str], int]) -> None:
        self._pool, self._available_on = pool, available_on

    def grant(self, claims: Sequence[Claim], may_end: Collection[WorkerHandle] = ()) -> list[WorkerHandle]:
        """Grants all of the claims or none; returns the workers that were ended for it, out of those that `may_end`.

        Raises:
            MemoryPlanError: they do not fit, with the figures; nothing of theirs was loaded.
        """
        ended: list[WorkerHandle] = []
        room = [handle for handle in may_end if handle.alive and not handle.busy]
        while (missing := sum(claim.missing_bytes for claim in claims)) > (left := self._left_bytes(claims)):
            if not room:
                raise _refusal(claims, missing, left)
            ended.append(room.pop(0))
            self._pool.end(ended[-1])
        for claim in claims:
            if claim.handle is not None:
                claim.handle.claimed_bytes = claim.needed_bytes
        return ended

    def too_large(self, claims: Mapping[int, Claim]) -> dict[int, EetError]:
        """Those of the claims that could not be granted even if all others gave up what they hold, and why."""
        refused: dict[int, EetError] = {}
        for index, claim in claims.items():
            available = self._available_on(claim.options.device)
            available += sum(other.held_bytes for other in claims.values() if other is not claim)
            if claim.missing_bytes > available:
                refused[index] = _refusal([claim], claim.missing_bytes, available)
        return refused

    def lack(self, claims: Sequence[Claim]) -> str | None:
        """What all claims together need and what there is, in words; None when there is enough."""
        missing = sum(claim.missing_bytes for claim in claims)
        available = self._available_on(claims[0].options.device) if claims else 0
        if missing <= available:
            return None
        return f"both sides together need {_size(missing)} and {_size(available)} are available"

    def preload(self, wanted: Sequence[SideOptions]) -> bool:
        """Begins to load workers for a race to come, if all of them fit now; else that race decides who loads when.

        Raises:
            EetError: a model that cannot be planned.
        """
        claims = [Claim(options, build.side_bytes(options)) for options in wanted]
        try:
            self.grant(claims)
        except MemoryPlanError:
            return False
        for claim in claims:
            self._pool.preload(claim.options).claimed_bytes = claim.needed_bytes
        return True

    def _left_bytes(self, claims: Sequence[Claim]) -> int:
        asking = [claim.handle for claim in claims]
        owed = sum(
            max(0, handle.claimed_bytes - handle.held_bytes)
            for handle in self._pool.handles
            if handle.alive and (handle.taken or handle.loading) and not any(handle is other for other in asking)
        )
        return max(0, self._available_on(claims[0].options.device) - owed)


def _refusal(claims: Sequence[Claim], missing: int, available: int) -> MemoryPlanError:
    """What all claims need against what there is for them, what they hold already counted on both sides."""
    held = sum(claim.needed_bytes for claim in claims) - missing
    sides = " and ".join(claim.options.side for claim in claims)
    needs = "needs" if len(claims) == 1 else "together need"
    where = " on the GPU" if claims[0].options.device == "cuda" else ""
    return MemoryPlanError(
        f"{sides} {needs} {_size(missing + held)} for this model, context and batch; "
        f"{_size(available + held)} are available{where}. {REMEDY}"
    )


def _size(size: int) -> str:
    return f"{size:,} bytes ({size_text(size)})"
