"""The decode loop against a device of its own clock: it never lets it wait, and never asks for a step too many."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, cast

import numpy as np
import pytest
import torch

from eet_demo.engine.executors.cuda.runtime import decode_loop
from eet_demo.engine.executors.cuda.runtime.decode_loop import RING, DecodeLoop, Pace, Timing, TokenRing
from eet_demo.engine.executors.cuda.runtime.executor import decode_step
from eet_demo.errors import KernelFaultError

STEP_NS = 230_000
LAUNCH_NS = 5_000
TOKEN = 7


class FakeDevice:
    """Steps of STEP_NS each, one after the other; time passes as the host launches and sleeps.

    Args:
        switch_ns: how long another thread holds the interpreter whenever the host lets go of it.
    """

    def __init__(self, rows: int, switch_ns: int = 0) -> None:
        self.now, self.free_at, self.idle_ns, self.launched = 0, 0, 0, 0
        self._rows, self._switch_ns, self._recorded = rows, switch_ns, 0
        self._ends: list[int] = []
        self._delivered = 0

    def ring(self, words: int) -> torch.Tensor:
        self._memory = torch.zeros(words, dtype=torch.int32)
        return self._memory

    def decode_step(self, *_: object) -> None:
        """A step of the lowering: what a capture counts, or what runs at once."""
        self._recorded += 1

    def capture(self, work: Callable[[], None]) -> Callable[[], object]:
        self._recorded = 0
        work()
        steps = self._recorded
        return lambda: self._launch(steps)

    def active(self) -> AbstractContextManager[None]:
        return nullcontext()

    def check(self) -> None: ...

    def synchronise(self) -> None: ...

    def sleep(self, seconds: float) -> None:
        self.now += int(seconds * 1e9) + self._switch_ns
        entries = self._memory.numpy()[: RING * self._rows * 2].reshape(RING, self._rows, 2)
        while self._delivered < len(self._ends) and self._ends[self._delivered] <= self.now:
            entries[self._delivered % RING] = (TOKEN, self._delivered + 1)
            self._delivered += 1

    def _launch(self, steps: int) -> None:
        self.now += LAUNCH_NS
        for _ in range(steps):
            begin = max(self.now, self.free_at)
            self.idle_ns += begin - self.free_at
            self.free_at = begin + STEP_NS
            self._ends.append(self.free_at)
        self.launched += steps


def loop_on(device: FakeDevice, together: int, max_context: int = 131072) -> DecodeLoop:
    timing = Timing(lambda: device.now, device.sleep)
    fake = cast(Any, device)
    return DecodeLoop(fake, fake, cast(Any, None), TokenRing(fake, device._rows, timing), max_context, together, True)


@pytest.fixture(autouse=True)
def no_uploads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decode_loop, "upload_rows", lambda *_: None)


def run(device: FakeDevice, count: int, together: int = 4, first: int = 0, stop: int | None = None) -> int:
    """Tokens that came."""
    step = decode_step(device._rows)
    step.positions[:] = first
    return sum(1 for _ in loop_on(device, together).run(step, count, frozenset([] if stop is None else [stop])))


@pytest.mark.parametrize("together", [1, 4, 8])
def test_a_busy_second_thread_does_not_starve_the_device(together: int) -> None:
    """Whenever the host looks at the ring, another thread takes the interpreter for its 5 ms."""
    device = FakeDevice(rows=2, switch_ns=5_000_000)
    assert run(device, 2000, together) == 2000
    # Until the first tokens are there, the loop cannot know how fast steps are.
    assert device.idle_ns <= 3 * 5_000_000
    assert device.launched == 2000


def test_four_steps_ahead_would_starve_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decode_loop, "MOST_AHEAD", 4)
    device = FakeDevice(rows=2, switch_ns=5_000_000)
    run(device, 400, together=1)
    assert device.idle_ns > 100 * 1_000_000


@pytest.mark.parametrize("count", [1, 3, 8, 13, 300])
@pytest.mark.parametrize("together", [1, 4, 8])
def test_no_step_too_many_is_launched(count: int, together: int) -> None:
    device = FakeDevice(rows=1)
    assert run(device, count, together, first=250) == count
    assert device.launched == count


def test_steps_that_go_together_share_a_bucket() -> None:
    """Captures are of one length of the cache: at its end steps go one by one."""
    loop = loop_on(FakeDevice(rows=1), together=4)
    assert loop._kinds(249, 12) == {(256, 4), (1024, 4)}
    assert loop._kinds(251, 12) == {(256, 4), (256, 1), (1024, 4), (1024, 1)}
    assert loop_on(FakeDevice(rows=1), together=4, max_context=260)._kinds(257, 4) == {(260, 4)}


def test_a_stop_ends_it_with_no_more_under_way_than_the_pace_allows() -> None:
    device = FakeDevice(rows=1)
    assert run(device, 5000, stop=TOKEN) == 1
    assert device.launched <= decode_loop.MOST_AHEAD + 4


def test_pace_is_ten_milliseconds_of_steps() -> None:
    def ahead(step_ns: int) -> int:
        pace = Pace(0)
        for i in range(1, 100):
            pace.saw(i * step_ns)
        return pace.ahead

    assert Pace(0).ahead == 4
    assert [ahead(n) for n in (100_000, 230_000, 1_000_000, 5_000_000, 100_000_000)] == [64, 44, 10, 4, 4]
    assert RING > decode_loop.MOST_AHEAD + 8


def test_a_device_that_is_silent_is_a_fault() -> None:
    device = FakeDevice(rows=1)
    ring = TokenRing(cast(Any, device), 1, Timing(lambda: device.now, device.sleep))
    with pytest.raises(KernelFaultError, match="not finished a step in 60 s"):
        ring.wait(0, 1)
    assert np.isclose(device.now, 60e9, rtol=0.01)
