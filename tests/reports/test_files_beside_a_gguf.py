"""Files that lie beside the model (projectors, parts, importance matrices) counted as the model."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from eet_demo.engine.checkpoint import Checkpoint
from eet_demo.errors import CheckpointError, UnsupportedError
from tests.gguf_files import random_model, write_gguf
from tests.reports.ggufs import converted, gguf_with

Q8 = gguf.GGMLQuantizationType.Q8_0


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model with its GGUF, of Q8_0 matrices."""
    made = converted(tmp_path)
    write_gguf(made / "model.gguf", random_model("llama", num_hidden_layers=2), Q8)
    return made


def write_other(path: Path, architecture: str = "llama", **values: Any) -> None:
    writer = gguf.GGUFWriter(path, architecture)
    for key, value in values.items():
        (writer.add_string if isinstance(value, str) else writer.add_uint16)(key.replace("__", "."), value)
    writer.add_tensor("blk.0.attn_q.weight.in_sum2", np.ones((4, 4), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


OTHERS: dict[str, dict[str, Any]] = {
    "mmproj-model-f16.gguf": {"architecture": "clip"},
    "a-projector.gguf": {"architecture": "clip", "general__type": "mmproj"},
    "imatrix.gguf": {"general__type": "imatrix"},
    "an-adapter.gguf": {"general__type": "adapter"},
    "model-00002-of-00003.gguf": {"split__no": 1, "split__count": 3},
    "no-vocabulary.gguf": {},
}


@pytest.mark.parametrize("name", OTHERS)
def test_it_is_not_the_model(folder: Path, name: str) -> None:
    write_other(folder / name, **OTHERS[name])
    assert "q8_0" in Checkpoint(folder, "packed").formats.values()


@pytest.mark.parametrize("name", OTHERS)
def test_alone_it_is_none_and_says_why(folder: Path, name: str) -> None:
    (folder / "model.gguf").unlink()
    write_other(folder / name, **OTHERS[name])
    with pytest.raises(UnsupportedError, match=f"has none \\({name} is "):
        _ = Checkpoint(folder, "packed").formats


@pytest.mark.parametrize("name", ["empty.gguf", "notes.gguf"])
def test_what_is_no_gguf_at_all(folder: Path, name: str) -> None:
    (folder / name).write_bytes(b"" if name == "empty.gguf" else b"a note")
    assert "q8_0" in Checkpoint(folder, "packed").formats.values()
    (folder / "model.gguf").unlink()
    with pytest.raises(CheckpointError, match="not a GGUF"):
        _ = Checkpoint(folder, "packed").formats


@pytest.mark.parametrize("name", ["model.GGUF", "sha256-60e05f21", "model.bin"])
def test_the_first_bytes_tell_and_not_the_name(folder: Path, name: str) -> None:
    (folder / "model.gguf").rename(folder / name)
    assert "q8_0" in Checkpoint(folder, "packed").formats.values()


def test_two_models_are_named(folder: Path) -> None:
    shutil.copy(folder / "model.gguf", folder / "other.gguf")
    with pytest.raises(UnsupportedError, match=r"holds 2 of them \(model\.gguf, other\.gguf\)"):
        _ = Checkpoint(folder, "packed").formats


def test_a_folder_called_so(folder: Path) -> None:
    (folder / "old.gguf").mkdir()
    assert "q8_0" in Checkpoint(folder, "packed").formats.values()
    assert gguf_with(folder / "old.gguf").is_file()
