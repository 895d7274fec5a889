"""Who may load: claims against what is left at the moment of asking, with the figures in words."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any

import pytest

from eet_demo.errors import MemoryPlanError
from eet_demo.machine.gpu import find_gpu
from eet_demo.race.residents import Claim, Residents
from eet_demo.race.resources import RaceResources
from eet_demo.records import Hardware
from eet_demo.sides.side import SideOptions
from eet_demo.worker.handle import WorkerHandle
from eet_demo.worker.memory import ProcessMemory
from eet_demo.worker.pool import WorkerPool
from tests.fake_clock import FakeTime
from tests.fake_nvml import Card, FakeNvml
from tests.fake_workers import FakeMachine, Play

STOCK = SideOptions("stock", "", "cpu", "float32", "dense", 2, 1, 100)
ENGINE = dataclasses.replace(STOCK, side="engine")


class Desk:
    """Residents of a machine with 100 bytes, and workers that hold what a test says."""

    def __init__(self, total_bytes: int = 100) -> None:
        self.machine = FakeMachine(FakeTime(), total_bytes)
        self.pool = WorkerPool(self.machine.start)
        self.residents = Residents(self.pool, lambda device: self.machine.available())

    def worker(self, options: SideOptions, held: int = 0, claimed: int = 0, **play: Any) -> WorkerHandle:
        self.machine.plays[options.side] = Play(**play)
        handle = self.pool.acquire(options)
        self.machine.time.sleep(1)
        handle.poll()
        self.machine.children[-1].held, handle.claimed_bytes = held, claimed
        return handle

    def granted(self, handle: WorkerHandle, needed: int, *may_end: WorkerHandle) -> list[WorkerHandle]:
        return self.residents.grant([Claim(handle.options, needed, handle)], may_end)


@pytest.fixture
def desk() -> Desk:
    return Desk()


def test_what_is_left_is_asked_every_time(desk: Desk) -> None:
    stock = desk.worker(STOCK)
    assert desk.granted(stock, 100) == []
    desk.machine.total_bytes = 99
    with pytest.raises(MemoryPlanError, match=r"stock needs 100 bytes .*; 99 bytes .* are available"):
        desk.granted(stock, 100)


def test_what_a_worker_holds_already_is_not_needed_again(desk: Desk) -> None:
    stock, engine = desk.worker(STOCK, held=60, claimed=60), desk.worker(ENGINE, held=35, claimed=35)
    assert desk.granted(stock, 60) == []
    assert desk.granted(engine, 40) == []
    assert engine.claimed_bytes == 40


def test_what_was_granted_and_is_not_taken_yet_is_nobody_elses(desk: Desk) -> None:
    stock, engine = desk.worker(STOCK, held=30), desk.worker(ENGINE)
    desk.granted(stock, 60)
    with pytest.raises(MemoryPlanError, match="40 bytes"):
        desk.granted(engine, 41)
    assert desk.granted(engine, 40) == []


def test_a_worker_that_nobody_uses_grows_no_more(desk: Desk) -> None:
    idle, engine = desk.worker(STOCK, held=30, claimed=60), desk.worker(ENGINE)
    idle.taken = False
    assert desk.granted(engine, 70) == []


def test_others_are_ended_one_by_one_and_only_if_they_must_and_may(desk: Desk) -> None:
    stock, engine = desk.worker(STOCK, held=40, claimed=40), desk.worker(ENGINE)
    eager = desk.worker(dataclasses.replace(STOCK, side="stock-eager"), held=30, claimed=30)
    with pytest.raises(MemoryPlanError):
        desk.granted(engine, 60)
    assert desk.granted(engine, 60, stock, eager) == [stock]
    assert [handle.alive for handle in (stock, eager)] == [False, True]
    assert desk.granted(engine, 60, stock, eager) == []


def test_a_worker_in_the_middle_of_something_is_not_ended(desk: Desk) -> None:
    stock, engine = desk.worker(STOCK, held=60, claimed=60), desk.worker(ENGINE)
    stock.busy = True
    with pytest.raises(MemoryPlanError):
        desk.granted(engine, 60, stock)
    assert stock.alive


def test_all_claims_are_granted_or_none(desk: Desk) -> None:
    stock, engine = desk.worker(STOCK), desk.worker(ENGINE)
    claims = [Claim(STOCK, 60, stock), Claim(ENGINE, 41, engine)]
    with pytest.raises(MemoryPlanError, match=r"stock and engine together need 101 bytes .*; 100 bytes"):
        desk.residents.grant(claims)
    assert (stock.claimed_bytes, engine.claimed_bytes) == (0, 0)
    assert desk.residents.lack(claims) == (
        "both sides together need 101 bytes (0.0 MiB) and 100 bytes (0.0 MiB) are available"
    )
    assert desk.residents.lack(claims[:1]) is None
    assert desk.residents.lack([]) is None


def test_too_large_is_what_does_not_fit_with_all_others_gone(desk: Desk) -> None:
    stock, engine = desk.worker(STOCK), desk.worker(ENGINE, held=55)
    claims = {0: Claim(STOCK, 100, stock), 1: Claim(ENGINE, 101, engine)}
    refused = desk.residents.too_large(claims)
    assert list(refused) == [1]
    assert "engine needs 101 bytes" in str(refused[1])
    assert "100 bytes (0.0 MiB) are available" in str(refused[1])


def test_the_pool_gives_no_unsound_worker_away(desk: Desk) -> None:
    handle = desk.worker(STOCK)
    handle.taken = handle.sound = False
    assert desk.pool.acquire(STOCK) is not handle
    desk.pool.retain([STOCK])
    assert not handle.alive


@pytest.mark.parametrize(
    ("kinds", "held"),
    [
        ({"weights": 50, "kv_cache_used": 3, "kv_cache_reserved": 20, "workspace": 5}, 75),
        ({"weights": 50, "kv_cache_used": 9, "kv_cache_reserved": 9, "allocated": 70, "allocator_slack": 8}, 78),
        ({}, 0),
    ],
)
def test_on_a_gpu_held_is_what_the_driver_says_or_else_the_side(desk: Desk, kinds: dict[str, int], held: int) -> None:
    options = dataclasses.replace(ENGINE, device="cuda")
    handle = desk.worker(options, held=60)
    handle.kinds = kinds
    assert handle.held_bytes == 60
    desk.machine.children[-1].play.unseen = True
    assert handle.held_bytes == held
    assert "on the GPU" in str(desk.residents.too_large({0: Claim(options, 10**6, handle)})[0])


def test_on_a_host_held_is_what_the_process_has_beyond_its_bare_self(desk: Desk) -> None:
    handle = desk.worker(STOCK, held=60)
    assert handle.held_bytes == 60
    handle.base_bytes = None
    assert handle.held_bytes == 0, "not known before it has said what it weighs"


def test_a_preload_claims_what_it_has_not_taken_yet(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("eet_demo.sides.build.side_bytes", lambda options: 60)
    assert desk.residents.preload([STOCK])
    assert not desk.residents.preload([ENGINE])
    assert [child.options.side for child in desk.machine.children] == ["stock"]


def test_available_memory_is_that_of_the_device(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """On CUDA the GPU's free bytes, elsewhere the host's."""
    FakeNvml(Card("H100", "GPU-1", memory=(16000, 9000))).install(monkeypatch)
    machine = RaceResources(tmp_path, Hardware("test", 2, 2**33), 2, lambda: 123, find_gpu())
    assert machine.available_on("cuda") == 7000
    assert machine.available_on("sim") == machine.available_on("cpu") == 123
    machine.close()


@pytest.mark.parametrize(("used", "seen"), [(500, {"device_process": 500}), (0, {}), (None, {})])
def test_bytes_that_nvml_cannot_count_are_no_sample(
    monkeypatch: pytest.MonkeyPatch, used: int | None, seen: dict[str, int]
) -> None:
    """Inside containers NVML lists a process with 0 bytes: that is not known, and not nothing."""
    FakeNvml(Card("H100", "GPU-1", memory=(16000, 9000), processes={os.getpid(): used})).install(monkeypatch)
    found = ProcessMemory(os.getpid(), find_gpu()).sample()
    assert {kind: size for kind, size in found.items() if kind.startswith("device")} == seen | {"device_total": 9000}
    assert found["process"] > 0
