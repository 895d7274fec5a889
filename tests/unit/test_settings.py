"""The environment as one typed record, and what it says when a variable cannot be used."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from eet_demo import paths
from eet_demo.declared import Limits
from eet_demo.errors import RequestError
from eet_demo.settings import Settings, load_settings

VARIABLES = (
    "CUDA_VISIBLE_DEVICES",
    "CUDA_DEVICE_ORDER",
    "SPACE_ID",
    "HF_HUB_OFFLINE",
)


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    for name in [*VARIABLES, *(name for name in os.environ if name.upper().startswith("EET_DEMO_"))]:
        monkeypatch.delenv(name, raising=False)


def test_defaults_serve_this_machine_alone() -> None:
    settings = load_settings()
    assert (settings.host, settings.port, settings.share) == ("127.0.0.1", 7860, False)
    assert settings.models_dir == Path.home() / ".cache/eet-demo/models"
    assert settings.threads is None
    assert (settings.device, settings.cuda_visible_devices) == ("auto", None)
    assert settings.memory_limit is None


def test_a_space_serves_everybody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPACE_ID", "owner/race")
    assert load_settings().host == "0.0.0.0"


def test_every_variable_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    values = {"HOST": "::1", "PORT": "80", "SHARE": "1", "THREADS": "3", "MEMORY_LIMIT": "8GiB", "HUB_OFFLINE": "yes"}
    for name, value in values.items():
        monkeypatch.setenv(f"EET_DEMO_{name}", value)
    settings = load_settings()
    assert (settings.host, settings.port, settings.share, settings.threads) == ("::1", 80, True, 3)
    assert (settings.memory_limit, settings.hub_offline) == (8 * 2**30, True)
    monkeypatch.setenv("EET_DEMO_MAX_BATCH", "3")
    monkeypatch.setenv("EET_DEMO_MAX_TEXT_CHARACTERS", "70")
    assert load_settings().max == replace(Limits(), batch=3, text_characters=70)
    monkeypatch.setenv("EET_DEMO_DEVICE", "cuda")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setenv("CUDA_DEVICE_ORDER", "PCI_BUS_ID")
    settings = load_settings()
    assert (settings.device, settings.cuda_visible_devices, settings.cuda_device_order) == ("cuda", "", "PCI_BUS_ID")


def test_models_follow_the_cache_unless_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EET_DEMO_CACHE_DIR", "/big/cache")
    assert load_settings().models_dir == Path("/big/cache/models")
    assert paths.cache_dir() == Path("/big/cache"), "one variable, one reader"
    monkeypatch.setenv("EET_DEMO_MODELS_DIR", "~/models")
    assert load_settings().models_dir == Path.home() / "models"


def test_huggingfaces_own_switch_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert Settings().hub_offline


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("EET_DEMO_PORT", "0"),
        ("EET_DEMO_PORT", "http"),
        ("EET_DEMO_THREADS", "0"),
        ("EET_DEMO_MEMORY_LIMIT", "lots"),
        ("EET_DEMO_MEMORY_LIMIT", "-1"),
        ("EET_DEMO_HUB_OFFLINE", "maybe"),
        ("EET_DEMO_DEVICE", "gpu"),
        ("EET_DEMO_MAX_NEW_TOKENS", "many"),
    ],
)
def test_unusable_value_is_named(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(RequestError, match=rf"{name}: "):
        load_settings()


@pytest.mark.parametrize(("name", "value"), [("BATCH", "0"), ("TEMPERATURE", "nan"), ("RACE_SECONDS", "-1")])
def test_limit_that_nothing_could_keep_is_named(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(f"EET_DEMO_MAX_{name}", value)
    with pytest.raises(RequestError, match=f"EET_DEMO_MAX_{name} is .*more than 0"):
        load_settings()
