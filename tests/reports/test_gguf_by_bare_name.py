"""`Engine.from_pretrained("tiny.gguf", weights="packed")`: "has none", though README and design promise it."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
import pytest

from eet_demo import Engine
from eet_demo.errors import RequestError
from eet_demo.models.fetch import convert_file
from tests.gguf_files import write_gguf
from tests.reports.ggufs import tiny_llama


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EET_DEMO_MODELS_DIR", str(tmp_path / "models"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("name", ["tiny.gguf", "./tiny.gguf", "tiny.GGUF", "sha256-1f2e"])
def test_packed_from_a_bare_name(here: Path, name: str) -> None:
    write_gguf(here / name, tiny_llama(), gguf.GGMLQuantizationType.Q4_0)
    found = {}
    for weights in ("dense", "packed"):
        with Engine.from_pretrained(name, "reference", weights=weights, max_batch=1, max_context=8) as engine:
            found[weights] = engine.prefill_logits([[5, 9, 3]])
    np.testing.assert_allclose(found["dense"], found["packed"], rtol=1e-4, atol=1e-4)
    dense, packed = (Engine.plan(name, "cpu", weights=weights, max_context=8) for weights in ("dense", "packed"))
    assert packed.weights_bytes < dense.weights_bytes / 2


def test_another_file_of_the_name_is_another_model(here: Path) -> None:
    first = convert_file(write_gguf(here / "tiny.gguf", tiny_llama()), here / "models")
    write_gguf(here / "tiny.gguf", tiny_llama(), gguf.GGMLQuantizationType.Q8_0)
    second = convert_file(here / "tiny.gguf", here / "models")
    assert first != second
    assert (second / "tiny.gguf").resolve() == here / "tiny.gguf"


def test_a_file_that_is_no_gguf(here: Path) -> None:
    (here / "model.bin").write_bytes(b"PK")
    with pytest.raises(RequestError, match=r"no \.gguf file"):
        Engine.from_pretrained("model.bin", weights="packed")
