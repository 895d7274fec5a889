"""A folder whose .gguf holds formats that the engine lacks: the page's default is packed, and the race fails."""

from __future__ import annotations

import shutil
from pathlib import Path

import gguf
import pytest

from eet_demo.errors import UnsupportedError
from eet_demo.models import catalog
from eet_demo.models.gguf.convert import convert
from eet_demo.models.hub import Hub
from eet_demo.records import Hardware, RaceSettings
from eet_demo.ui.offer import ModelChoice, Offer, catalogue_choices
from tests.gguf_files import write_gguf
from tests.reports.ggufs import tiny_llama

K = gguf.GGMLQuantizationType
OTHER = catalog.find("smollm2-360m")


def offered(models_dir: Path, kind: gguf.GGMLQuantizationType, cut: bool = False) -> Offer:
    folder = models_dir / OTHER.id
    folder.mkdir()
    path = write_gguf(folder / "model.gguf", tiny_llama(), kind)
    convert(path, folder)
    if cut:
        path.write_bytes(path.read_bytes()[:-100])

    def models() -> tuple[ModelChoice, ...]:
        return tuple(choice for choice in catalogue_choices(models_dir, Hub(enabled=False)) if choice.id == OTHER.id)

    return Offer(models, {}, Hardware("CPU", 1, 1), {})


@pytest.mark.parametrize("kind", [K.Q4_0, K.Q4_1, K.Q8_0])
def test_what_the_engine_has_is_the_default(tmp_path: Path, kind: gguf.GGMLQuantizationType) -> None:
    assert offered(tmp_path, kind).weights(OTHER.id)[0] == "packed"


@pytest.mark.parametrize(("kind", "words"), [(K.Q5_0, "as Q5_0"), (K.Q5_1, "as Q5_1"), (K.F16, "is stored in floats")])
def test_what_it_lacks_is_not_offered(tmp_path: Path, kind: gguf.GGMLQuantizationType, words: str) -> None:
    offer = offered(tmp_path, kind)
    assert offer.weights(OTHER.id) == ("dense", "q8_0")
    assert offer.default_settings.weights == "dense"
    with pytest.raises(UnsupportedError, match=f"{words}.* and has no packed weights; there are dense, q8_0"):
        offer.check(RaceSettings(OTHER.id, weights="packed"))


def test_a_broken_file_is_not_offered(tmp_path: Path) -> None:
    assert offered(tmp_path, K.Q4_0, cut=True).weights(OTHER.id) == ("dense", "q8_0")


def test_a_file_that_changes_is_asked_again(tmp_path: Path) -> None:
    offer = offered(tmp_path, K.Q5_0)
    assert "packed" not in offer.weights(OTHER.id)
    shutil.rmtree(tmp_path / OTHER.id)
    assert "packed" in offered(tmp_path, K.Q4_0).weights(OTHER.id)
