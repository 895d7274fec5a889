"""`shape:NAME`: a public shape with random weights, where a model is named, from the engine to bench."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from eet_demo.engine import shapes
from eet_demo.engine.engine import Engine
from eet_demo.engine.families import weights_of
from eet_demo.engine.random_weights import RandomCheckpoint
from eet_demo.errors import RequestError, UnsupportedError
from eet_demo.models import catalog
from eet_demo.models.resolve import resolve
from eet_demo.race.bench import Bench
from eet_demo.race.inputs import RANDOM_WEIGHTS_NOTE
from eet_demo.race.resources import RaceResources
from eet_demo.records import RaceSettings
from eet_demo.sides.side import SideOptions
from eet_demo.sides.stock_bytes import stock_bytes

TINY = {
    "tiny-gpt2": shapes._gpt2(64, 2, 4, 96, 331),
    "tiny-llama": shapes._llama(64, 160, 2, 4, 2, 331, 96),
}


@pytest.fixture(autouse=True)
def tiny_shapes(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, config in TINY.items():
        monkeypatch.setitem(shapes._CONFIGS, name, config)


@pytest.mark.parametrize("name", TINY)
def test_random_model_writes_the_same_on_every_host_executor(name: str) -> None:
    written = []
    for device in ("reference", "cpu"):
        engine = Engine.from_pretrained(f"shape:{name}", device=device, max_batch=2, max_context=48)
        written.append(engine.generate([[1, 2, 3, 4, 5], [7, 8]], max_new_tokens=8).token_ids)
        engine.close()
    assert written[0] == written[1]
    assert [len(row) for row in written[0]] == [8, 8]


@pytest.mark.parametrize("name", TINY)
def test_random_weights_are_whole_and_repeat(name: str) -> None:
    checkpoint = RandomCheckpoint(TINY[name], name)
    checkpoint.check()
    for weight in weights_of(checkpoint.spec):
        first, again = (list(checkpoint.blocks(weight)) for _ in range(2))
        for one, other in zip(first, again, strict=True):
            np.testing.assert_array_equal(one.values, other.values, err_msg=weight.name)
        covered = np.concatenate([block.values for block in first])
        assert covered.shape == ((weight.rows, weight.columns) if weight.is_matrix else (weight.rows,))
        assert abs(covered.mean() - ("norm.weight" in weight.name)) < 0.02, weight.name
        assert 0.01 < covered.std() < 0.03, weight.name
    other_seed = RandomCheckpoint(TINY[name], name, seed=1)
    weight = weights_of(checkpoint.spec)[0]
    assert not np.array_equal(next(other_seed.blocks(weight)).values, next(checkpoint.blocks(weight)).values)


def test_random_weights_are_quantised_as_a_checkpoints_are() -> None:
    checkpoint = RandomCheckpoint(TINY["tiny-llama"], "tiny", "q8_0")
    weight = next(weight for weight in weights_of(checkpoint.spec) if weight.name.endswith("qkv.weight"))
    assert checkpoint.formats[weight.name] == "q8_0"
    assert sum(len(block.raw) for block in checkpoint.raw_blocks(weight)) == weight.rows
    with pytest.raises(UnsupportedError, match=r"packed ones come from a \.gguf"):
        RandomCheckpoint(TINY["tiny-llama"], "tiny", "packed")


def test_unknown_shape_is_refused_with_those_there_are() -> None:
    with pytest.raises(RequestError, match="no shape is called 'gpt9'; there are distilgpt2, gpt2, "):
        Engine.plan("shape:gpt9")


def test_shape_resolves_to_itself(tmp_path: Path) -> None:
    assert resolve("shape:gpt2", tmp_path, hub_enabled=False) == Path("shape:gpt2")
    assert catalog.local_folder("shape:gpt2", tmp_path) == Path("shape:gpt2")


def test_stock_is_estimated_from_the_shape() -> None:
    options = SideOptions("stock", "shape:gpt2", "cuda", "float16", "dense", 1, 1, 256)
    assert 2 * 124_439_808 < stock_bytes(options) < 2 * 124_439_808 + 200e6


def test_bench_of_a_shape_compares_speeds_and_no_tokens(race_resources: RaceResources) -> None:
    """Two engines draw the same weights, so their tokens are compared; stock draws its own."""
    for sides, compared in ((("stock", "engine"), False), (("engine:prefill_chunk=8", "engine"), True)):
        settings = RaceSettings("shape:distilgpt2", context=24, new_tokens=3, sides=sides)
        result = Bench(settings, 1, Path("shape:distilgpt2"), race_resources).run(lambda line: None)
        assert result["speedup"]["decode"] > 0
        assert RANDOM_WEIGHTS_NOTE in result["notes"]
        assert (result["parity"] is not None) is compared
        if compared:
            assert result["parity"][0]["first_divergence"] is None
