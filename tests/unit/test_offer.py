"""What the page offers follows device, model and owner; what there is not is refused in words."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from eet_demo.errors import DeviceMissingError, UnsupportedError
from eet_demo.machine.doctor import Check, CheckId
from eet_demo.models import catalog
from eet_demo.models.hub import Hub
from eet_demo.records import Hardware, RaceSettings
from eet_demo.ui.controls import weights_choices
from eet_demo.ui.handlers import Handlers
from eet_demo.ui.offer import ModelChoice, Offer, catalogue_choices, choose_device
from eet_demo.ui.runs import Runs

MODELS = (ModelChoice("gguf", "G", 64, "", packed=True), ModelChoice("plain", "P", 64, ""))
OFFER = Offer(lambda: MODELS, {}, Hardware("CPU", 1, 1), {})
MISSING = Check(CheckId.DEVICE_CUDA, "unneeded", "CuPy: none", "Driver 550.54 wants: pip install cupy")


@pytest.mark.parametrize(
    ("wanted", "runs", "device", "lacks"),
    [
        ("auto", True, "cuda", ""),
        ("auto", False, "cpu", ""),
        ("cpu", True, "cpu", ""),
        ("cuda", True, "cuda", ""),
        ("cuda", False, "cuda", "CuPy: none. Driver 550.54 wants: pip install cupy"),
    ],
)
def test_device_is_the_owners_else_the_machines_best(wanted: str, runs: bool, device: str, lacks: str) -> None:
    check = replace(MISSING, state="yes") if runs else MISSING
    assert choose_device(wanted, [check]) == (device, lacks)


def test_default_race_is_packed_where_the_model_is_a_gguf() -> None:
    settings = OFFER.default_settings
    assert (settings.model, settings.device, settings.dtype, settings.weights) == ("gguf", "cpu", "float32", "packed")
    on_gpu = replace(OFFER, device="cuda").default_settings
    assert (on_gpu.device, on_gpu.dtype, on_gpu.weights) == ("cuda", "float16", "packed")
    assert replace(OFFER, device="cuda").dtypes == ("float16", "float32", "bfloat16")
    assert OFFER.dtypes[0] == "float32"


def test_memory_of_a_model_is_said_in_gib(tmp_path: Path) -> None:
    entry = catalog.find("smollm2-135m")
    needed = catalog.memory_bytes(entry, "float32", "dense", 1024)
    choice = next(each for each in catalogue_choices(tmp_path, Hub(enabled=False)) if each.id == entry.id)
    assert f"; {needed / 2**30:.1f} GiB in float32 and" in choice.details


def test_weights_follow_the_model() -> None:
    assert OFFER.weights("gguf") == ("packed", "dense", "q8_0")
    assert OFFER.weights("plain") == ("dense", "q8_0")
    assert weights_choices(OFFER, "plain", "packed")["value"] == "dense"
    assert weights_choices(OFFER, "gguf", "dense")["value"] == "packed"
    assert weights_choices(OFFER, "plain", "q8_0")["value"] == "q8_0", "the visitor's own choice stays"


def test_catalogue_knows_what_comes_as_a_gguf(models_dir: Path, tmp_path: Path) -> None:
    assert catalog.has_packed_weights(catalog.find("smollm2-135m"), tmp_path), "before it is fetched, too"
    other = catalog.find("smollm2-360m")
    assert not catalog.has_packed_weights(other, tmp_path)
    shutil.copytree(models_dir / "smollm2-135m", tmp_path / other.id)
    assert catalog.has_packed_weights(other, tmp_path)
    (tmp_path / other.id / next((tmp_path / other.id).glob("*.gguf")).name).write_bytes(b"")
    assert not catalog.has_packed_weights(other, tmp_path)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        (
            {"model": "plain", "weights": "packed"},
            "plain comes as safetensors and has no packed weights; there are dense",
        ),
        ({"weights": "q3"}, "gguf cannot be stored as 'q3'; there are packed, dense, q8_0"),
        ({"dtype": "float64"}, "device 'cpu' has no dtype 'float64'; it has float32"),
    ],
)
def test_what_there_is_not_is_refused_by_name(changed: dict[str, str], words: str) -> None:
    with pytest.raises(UnsupportedError, match=words):
        OFFER.check(replace(OFFER.default_settings, **changed))  # type: ignore[arg-type]
    OFFER.check(OFFER.default_settings)


def test_a_gpu_that_is_not_there_is_refused_with_the_remedy() -> None:
    offer = replace(OFFER, device="cuda", device_lacks=choose_device("cuda", [MISSING])[1])
    handlers = Handlers(Runs(), offer.check, lambda settings: pytest.fail("no race may begin"))
    run, payload = handlers.press("session", lambda: RaceSettings("gguf", device="cuda"))
    (said,) = payload["updates"]
    assert run.settings is None
    assert said["message"] == (
        "EET_DEMO_DEVICE is cuda, which cannot run here. CuPy: none. Driver 550.54 wants: pip install cupy"
    )
    assert said["remedy"] == DeviceMissingError.remedy
