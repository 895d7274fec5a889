"""`model.safetensors` beside a stale index with shards: one side reads the file, the other the shards."""

from __future__ import annotations

from pathlib import Path

import pytest

from eet_demo.errors import CheckpointError, SourceError
from eet_demo.models.fetch import fetch_repository
from eet_demo.sides.stock_bytes import checkpoint_elements
from tests.fake_hub import FakeHub, serving
from tests.reports.both import (
    assert_same,
    engine_logits,
    random_model,
    saved,
    stock_logits,
    store,
    tensors,
    write_index,
)
from tests.unit.test_hub import point_at


def in_shards(folder: Path, seed: int = 0, under: str = "") -> None:
    """The same model in two shards and an index, another one's numbers with another seed."""
    (folder / under).mkdir(exist_ok=True)
    stored = random_model("llama", seed).state_dict()
    parts = {f"{under}part-{i}.safetensors": sorted(stored)[i::2] for i in range(2)}
    for file, names in parts.items():
        store(folder, {name: stored[name] for name in names}, file)
    write_index(folder, {name: file for file, names in parts.items() for name in names})


def test_the_single_file_comes_first(tmp_path: Path) -> None:
    folder = saved(tmp_path)
    in_shards(folder, seed=1)
    values = sum(value.numel() for value in tensors(folder).values())
    assert checkpoint_elements(folder) == values, "an estimate counts what is loaded"
    assert_same(folder)


@pytest.mark.parametrize("under", ["", "weights/"])
def test_shards_are_those_of_the_index(tmp_path: Path, under: str) -> None:
    """A stale shard, another model's file and a broken one lie beside them; the index's names may have folders."""
    folder = saved(tmp_path)
    stored = tensors(folder)
    (folder / "model.safetensors").unlink()
    in_shards(folder, under=under)
    store(folder, {name: value + 1 for name, value in stored.items()}, "model-00001-of-00009.safetensors")
    (folder / "consolidated.safetensors").write_bytes(b"not one")
    assert checkpoint_elements(folder) == sum(value.numel() for value in stored.values())
    assert_same(folder)


def test_a_shard_that_the_index_names_is_missing(tmp_path: Path) -> None:
    folder = saved(tmp_path)
    (folder / "model.safetensors").unlink()
    in_shards(folder)
    (folder / "part-1.safetensors").unlink()
    assert isinstance(stock_logits(folder), str)
    with pytest.raises(CheckpointError, match=r"no part-1\.safetensors, which model\.safetensors\.index\.json names"):
        engine_logits(folder)


@pytest.mark.parametrize("file", ["../part.safetensors", "/etc/part.safetensors", "a/../../part.safetensors"])
def test_an_index_does_not_lead_out_of_its_folder(tmp_path: Path, file: str) -> None:
    folder = saved(tmp_path)
    (folder / "model.safetensors").unlink()
    write_index(folder, {"model.norm.weight": file})
    with pytest.raises(CheckpointError, match="not in its folder"):
        engine_logits(folder)


@pytest.mark.parametrize("single", [False, True])
def test_a_download_takes_the_files_that_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, single: bool) -> None:
    source = saved(tmp_path / "source")
    in_shards(source, under="weights/")
    if not single:
        (source / "model.safetensors").unlink()
    (source / "model-00001-of-00009.safetensors").write_bytes(b"stale")
    files = {str(path.relative_to(source)): path.read_bytes() for path in source.rglob("*") if path.is_file()}
    with serving(FakeHub(files)) as server:
        point_at(server.url, monkeypatch)
        folder = fetch_repository("owner/name", tmp_path / "models")
    weights = {path.name for path in folder.rglob("*.safetensors*")}
    shards = {"model.safetensors.index.json", "part-0.safetensors", "part-1.safetensors"}
    assert weights == ({"model.safetensors"} if single else shards)
    assert_same(folder)


def test_a_repository_without_a_shard_of_its_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = saved(tmp_path / "source")
    (source / "model.safetensors").unlink()
    in_shards(source)
    (source / "part-0.safetensors").unlink()
    with serving(FakeHub({path.name: path.read_bytes() for path in source.iterdir()})) as server:
        point_at(server.url, monkeypatch)
        with pytest.raises(SourceError, match=r"lacks part-0\.safetensors"):
            fetch_repository("owner/name", tmp_path / "models")
