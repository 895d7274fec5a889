"""The Hub, played by a server on this machine: what is taken, what is refused, and that nobody ever waits for it."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants
from transformers import AutoModelForCausalLM

from eet_demo.errors import SourceError, UnsupportedError
from eet_demo.models import fetch
from eet_demo.models.hub import PROBE_SECONDS, Hub, check_config
from tests.fake_hub import COMMIT, FakeHub, serving
from tests.gguf_files import random_model


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """A whole repository: a model, and what is never to be taken."""
    folder = tmp_path_factory.mktemp("repository")
    random_model("llama").save_pretrained(folder)
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    return files | {
        "tokenizer.json": b"{}",
        "pytorch_model.bin": b"pickle",
        "modeling_evil.py": b"raise SystemExit",
        "onnx/config.json": b"{}",
        "consolidated.safetensors": b"the same again",
    }


@pytest.fixture
def hub(checkpoint: dict[str, bytes], monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    with serving(FakeHub(dict(checkpoint))) as server:
        point_at(server.url, monkeypatch)
        yield server


def point_at(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", url + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)


def test_repository_becomes_a_model_folder(hub: FakeHub, tmp_path: Path) -> None:
    steps: list[tuple[str, int, int]] = []
    folder = fetch.fetch_repository("owner/name", tmp_path, lambda *step: steps.append(step))
    assert folder == tmp_path / "owner--name"
    taken = {"config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "source.json"}
    assert {path.name for path in folder.iterdir()} == taken, "no pickle, no code, nothing twice"
    assert json.loads((folder / "source.json").read_text()) == {"hub": "owner/name", "revision": COMMIT}
    assert steps[-1][0] == "download"
    assert steps[-1][1] == steps[-1][2] > 100_000
    ids = torch.arange(3, 40)[None]
    with torch.no_grad():
        assert torch.equal(AutoModelForCausalLM.from_pretrained(folder)(ids).logits, random_model("llama")(ids).logits)


def test_second_fetch_asks_nothing(hub: FakeHub, tmp_path: Path) -> None:
    folder = fetch.fetch_repository("owner/name", tmp_path)
    hub.asked.clear()
    assert fetch.fetch_repository("owner/name", tmp_path) == folder
    assert hub.asked == []


def test_named_revision_has_a_folder_of_its_own(hub: FakeHub, tmp_path: Path) -> None:
    assert fetch.fetch_repository("owner/name@v1", tmp_path).name == "owner--name@v1"
    assert any("/revision/v1" in path for path in hub.asked)


def test_shards_are_taken_with_their_index(hub: FakeHub, tmp_path: Path) -> None:
    random_model("llama").save_pretrained(tmp_path / "sharded", max_shard_size="200KB")
    hub.files = {path.name: path.read_bytes() for path in (tmp_path / "sharded").iterdir()}
    shards = {name for name in hub.files if name.startswith("model-")}
    assert len(shards) > 1
    folder = fetch.fetch_repository("owner/name", tmp_path / "models")
    assert shards | {"model.safetensors.index.json"} <= {path.name for path in folder.iterdir()}


def test_code_in_a_repository_is_refused_before_its_weights(hub: FakeHub, tmp_path: Path) -> None:
    config = json.loads(hub.files["config.json"]) | {"auto_map": {"AutoModelForCausalLM": "modeling_evil.Evil"}}
    hub.files["config.json"] = json.dumps(config).encode()
    with pytest.raises(UnsupportedError, match="never run"):
        fetch.fetch_repository("owner/name", tmp_path)
    assert not any(path.endswith(".safetensors") for path in hub.asked)


def test_code_that_transformers_has_of_its_own_is_not_needed() -> None:
    config = {
        "model_type": "phi3", "auto_map": {"AutoModelForCausalLM": "modeling_phi3.Phi3ForCausalLM"}, "vocab_size": 99,
        "hidden_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 88,
        "max_position_embeddings": 64, "rms_norm_eps": 1e-5,
    }  # fmt: skip
    check_config(config, "owner/name")


def test_unsupported_architecture_is_refused_before_its_weights(hub: FakeHub, tmp_path: Path) -> None:
    hub.files["config.json"] = b'{"model_type": "mamba"}'
    with pytest.raises(UnsupportedError, match=r"'mamba'.*supported"):
        fetch.fetch_repository("owner/name", tmp_path)
    assert not any(path.endswith(".safetensors") for path in hub.asked)


def test_pickled_weights_are_refused(hub: FakeHub, tmp_path: Path) -> None:
    del hub.files["model.safetensors"]
    with pytest.raises(UnsupportedError, match="pickled weights are never loaded"):
        fetch.fetch_repository("owner/name", tmp_path)


def test_gated_repository_says_what_to_do(hub: FakeHub, tmp_path: Path) -> None:
    hub.gated = True
    with pytest.raises(SourceError, match=r"accept its licence at https://huggingface\.co/owner/name and set HF_TOKEN"):
        fetch.fetch_repository("owner/name", tmp_path)


def test_unknown_repository_is_named(hub: FakeHub, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="no repository owner/other"):
        fetch.fetch_repository("owner/other", tmp_path)


def test_file_shorter_than_announced_is_never_a_model(hub: FakeHub, tmp_path: Path) -> None:
    hub.files["model.safetensors"] = hub.files["model.safetensors"][:-1000]
    with pytest.raises(Exception, match=r"model\.safetensors|truncated") as caught:
        fetch.fetch_repository("owner/name", tmp_path)
    assert type(caught.value).__name__ in ("SourceError", "CheckpointError")
    assert not (tmp_path / "owner--name").exists()


def test_no_network_is_said_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    point_at("http://127.0.0.1:9", monkeypatch)
    started = time.monotonic()
    with pytest.raises(SourceError, match="cannot be fetched from the Hugging Face Hub"):
        fetch.fetch_repository("owner/name", tmp_path)
    assert time.monotonic() - started < 10


def test_rest_of_an_interrupted_download_is_no_model(
    hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a network, huggingface_hub is content with a folder that holds anything."""
    staging = tmp_path / fetch.STAGING / "owner--name"
    staging.mkdir(parents=True)
    (staging / "config.json").write_bytes(hub.files["config.json"])
    point_at("http://127.0.0.1:9", monkeypatch)
    with pytest.raises(SourceError):
        fetch.fetch_repository("owner/name", tmp_path)
    assert not (tmp_path / "owner--name").exists()


def test_switched_off_hub_is_not_asked(hub: FakeHub, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="switched off"):
        fetch.fetch_repository("owner/name", tmp_path, hub_enabled=False)
    looker = Hub(enabled=False)
    looker.start()
    time.sleep(0.2)
    assert hub.asked == []


def wait_for(looker: Hub, seconds: float) -> bool | None:
    deadline = time.monotonic() + seconds
    while looker.reachable is None and time.monotonic() < deadline:
        time.sleep(0.01)
    return looker.reachable


def test_hub_that_answers_is_reachable_and_asked_once(hub: FakeHub) -> None:
    looker = Hub()
    assert looker.reachable is None, "nothing is asked before start"
    for _ in range(3):
        looker.start()
    assert wait_for(looker, 5) is True, "an error page is an answer too"
    looker.start()
    assert len(hub.asked) == 1


def test_closed_port_is_not_reachable(monkeypatch: pytest.MonkeyPatch) -> None:
    point_at("http://127.0.0.1:9", monkeypatch)
    looker = Hub()
    looker.start()
    assert wait_for(looker, 5) is False


def test_silent_network_is_not_reachable_in_bounded_time(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        point_at(f"http://127.0.0.1:{silent.getsockname()[1]}", monkeypatch)
        looker = Hub()
        started = time.monotonic()
        looker.start()
        assert time.monotonic() - started < 0.5, "start does not wait"
        assert wait_for(looker, 10) is False
        assert time.monotonic() - started < PROBE_SECONDS + 1
