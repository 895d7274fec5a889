"""Who fits in memory: decided from plans and estimates, with the figures in words."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path
from typing import Any, cast

import pytest

from eet_demo.errors import CheckpointError, MemoryPlanError, UnsupportedError
from eet_demo.machine.gpu import find_gpu
from eet_demo.race import fits, resources
from eet_demo.race.fits import Residency, decide
from eet_demo.race.lane import Lane
from eet_demo.records import Hardware
from eet_demo.sides import stock_bytes as estimate
from eet_demo.sides.side import SideOptions
from eet_demo.sides.stock_bytes import checkpoint_elements, stock_bytes
from eet_demo.worker import memory
from eet_demo.worker.handle import WorkerHandle
from eet_demo.worker.pool import same_worker
from tests.fake_nvml import Card, FakeNvml

OPTIONS = SideOptions("stock", "", "cpu", "float32", "dense", 2, 1, 100)


@dataclasses.dataclass
class FakeLane:
    """The part of a lane that the decision looks at; `needs` is what its side would take."""

    index: int
    needs: int | Exception
    held_bytes: int = 0
    over: bool = False

    @property
    def options(self) -> SideOptions:
        return dataclasses.replace(OPTIONS, side=("stock", "engine")[self.index], max_context=self.index)


@pytest.fixture
def choose(monkeypatch: pytest.MonkeyPatch) -> Any:
    def run(available: int, *lanes: FakeLane) -> Residency:
        def side_bytes(options: SideOptions) -> int:
            needs = lanes[options.max_context].needs
            if isinstance(needs, Exception):
                raise needs
            return needs

        monkeypatch.setattr(fits, "side_bytes", side_bytes)
        return decide(cast(list[Lane], list(lanes)), available)

    return run


def test_both_stay_when_both_fit(choose: Any) -> None:
    assert choose(100, FakeLane(0, 60), FakeLane(1, 40)) == Residency(True)


def test_each_loads_for_its_turn_when_only_one_fits(choose: Any) -> None:
    found = choose(99, FakeLane(0, 60), FakeLane(1, 40))
    assert not found.resident
    assert "each is loaded for its turn" in found.notes[0]
    assert found.refused == {}


def test_what_a_worker_holds_already_is_not_needed_again(choose: Any) -> None:
    assert choose(10, FakeLane(0, 60, held_bytes=60), FakeLane(1, 40, held_bytes=35)).resident


def test_a_side_fits_alone_when_the_other_ones_worker_can_be_unloaded(choose: Any) -> None:
    found = choose(10, FakeLane(0, 60), FakeLane(1, 55, held_bytes=55))
    assert not found.resident
    assert found.refused == {}


def test_a_side_too_large_is_refused_with_the_figures_and_the_other_runs(choose: Any) -> None:
    found = choose(50_000_000, FakeLane(0, 60_000_000), FakeLane(1, 40_000_000))
    assert found.resident
    assert set(found.refused) == {0}
    assert "stock needs 60,000,000 bytes" in str(found.refused[0])
    assert "50,000,000" in str(found.refused[0])


def test_a_side_that_cannot_be_planned_is_refused_by_its_own_error(choose: Any) -> None:
    error = UnsupportedError("model architecture 'mamba' is not supported")
    assert choose(100, FakeLane(0, 60), FakeLane(1, error)).refused == {1: error}


def test_nothing_fits_is_an_error_before_anything_is_loaded(choose: Any) -> None:
    with pytest.raises(MemoryPlanError, match=r"needs 60 bytes .* 30 "):
        choose(30, FakeLane(0, 60), FakeLane(1, 40))


def test_stock_estimate_holds_for_the_default_model(model_dir: Path) -> None:
    """Weights are exact; the rest grows with what drives it: the context, a batch's mask, eager attention's scores."""
    base = dataclasses.replace(OPTIONS, model_path=str(model_dir), max_context=1024)
    assert checkpoint_elements(model_dir) == 134_515_008
    weights = 4 * checkpoint_elements(model_dir)
    assert weights < stock_bytes(base) < weights + 300_000_000
    kv = 2 * 30 * 3 * 64 * 4 * 1024
    longer = stock_bytes(dataclasses.replace(base, max_context=2048)) - stock_bytes(base)
    assert longer > kv
    eager = stock_bytes(dataclasses.replace(base, side="stock-eager")) - stock_bytes(base)
    assert eager >= 9 * 1024 * 1024 * 4
    assert stock_bytes(dataclasses.replace(base, dtype="bfloat16")) < stock_bytes(base) * 0.6


@pytest.mark.parametrize(("side", "slots"), [("stock-static", 3 * 100 + 9 * 20), ("stock", 12 * 100)])
def test_static_cache_is_cut_to_each_layers_window(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, side: str, slots: int
) -> None:
    """A dynamic one holds the whole prompt in every layer until the first decode step."""
    config: dict[str, Any] = {
        "model_type": "qwen2", "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 12, "vocab_size": 96,
        "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 512, "rms_norm_eps": 1e-6,
    }  # fmt: skip
    windows = {"use_sliding_window": True, "sliding_window": 20, "max_window_layers": 3}
    monkeypatch.setattr(estimate, "checkpoint_elements", lambda folder: 0)
    needed = []
    for fields in (config | windows, config):
        (tmp_path / "config.json").write_text(json.dumps(fields))
        needed.append(stock_bytes(dataclasses.replace(OPTIONS, side=side, model_path=str(tmp_path))))
    slot_bytes = 2 * 2 * 16 * 4
    assert needed[1] - needed[0] == (12 * 100 - slots) * slot_bytes


@pytest.mark.parametrize("content", [b"", b"\x05\x00\x00\x00\x00\x00\x00\x00{bad}", b"\x10" * 4])
def test_a_broken_checkpoint_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "model.safetensors").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"model\.safetensors"):
        checkpoint_elements(tmp_path)


def test_a_folder_without_weights_is_named(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"hidden_size": 8}))
    with pytest.raises(CheckpointError, match=r"neither model\.safetensors nor"):
        checkpoint_elements(tmp_path)


def test_stock_worker_serves_any_context_and_an_engine_worker_only_its_own() -> None:
    larger = dataclasses.replace(OPTIONS, max_context=200, max_batch=4)
    assert same_worker(OPTIONS, larger)
    assert not same_worker(OPTIONS, dataclasses.replace(larger, dtype="bfloat16"))
    for side in ("engine", "stock-static"):
        assert not same_worker(*(dataclasses.replace(each, side=side) for each in (OPTIONS, larger))), side


def test_handle_is_not_loaded_before_it_says_so() -> None:
    handle = WorkerHandle(dataclasses.replace(OPTIONS, side="scripted"))
    try:
        before = handle.loading
        handle.load()
        assert (before, handle.loading, handle.loaded) == (False, True, False)
    finally:
        handle.kill()


def test_memory_is_counted_where_the_race_runs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """On CUDA the GPU's free bytes and what a worker holds of them, elsewhere the host's."""
    FakeNvml(Card("H100", "GPU-1", memory=(16000, 9000), processes={os.getpid(): 500})).install(monkeypatch)
    gpu = find_gpu()
    machine = resources.RaceResources(tmp_path, Hardware("test", 2, 2**33), 2, lambda: 123, gpu)
    assert machine.available_on("cuda") == 7000
    assert machine.available_on("sim") == machine.available_on("cpu") == 123
    machine.close()
    for device, held in (("cuda", 500), ("cpu", None)):
        lane = Lane(0, dataclasses.replace(OPTIONS, device=device), cast(Any, None), cast(Any, None))
        assert lane.held_bytes == 0, "no process yet"
        lane._memory = memory.ProcessMemory(os.getpid(), gpu)
        assert lane.held_bytes == held if held is not None else lane.held_bytes > 2**20


@pytest.mark.parametrize("used", [0, None])
def test_bytes_that_nvml_cannot_count_are_no_sample(monkeypatch: pytest.MonkeyPatch, used: int | None) -> None:
    """Inside containers NVML lists a process with 0 bytes: that is not known, and not nothing."""
    FakeNvml(Card("H100", "GPU-1", memory=(16000, 9000), processes={os.getpid(): used})).install(monkeypatch)
    found = memory.ProcessMemory(os.getpid(), find_gpu()).sample()
    assert "device_process" not in found
    assert found["device_total"] == 9000
    assert found["process"] > 2**20
