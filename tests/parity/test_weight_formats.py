"""Weights as they are stored, from a model's folder to its tokens: the CPU against the reference's dequantised twin."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from eet_demo import Engine, EngineOptions
from eet_demo.errors import CheckpointError
from eet_demo.models.gguf.convert import convert
from tests.gguf_files import random_model, write_gguf

KINDS = gguf.GGMLQuantizationType
PROMPTS = [[5, 9, 200, 3, 77, 31, 8], [1], [17, 4, 4, 250, 12, 60, 61, 62, 63, 2, 9, 11]]
NEW_TOKENS = 12


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Converted folders with their .gguf beside them, each matrix format once."""
    made = {}
    for kind, code in (("llama", KINDS.Q4_1), ("gpt2", KINDS.Q8_0), ("llama", KINDS.Q4_0)):
        folder = made[f"{kind}-{code.name}"] = tmp_path_factory.mktemp(f"{kind}-{code.name}")
        convert(write_gguf(folder / "model.gguf", random_model(kind), code), folder)
    return made


def outcome(folder: Path, device: str, weights: str, **arguments: Any) -> tuple[np.ndarray, list[list[int]], int]:
    """Logits after each prompt, greedy tokens, bytes of the weights."""
    options = arguments.pop("options", EngineOptions(prefill_chunk=8))
    with Engine.from_pretrained(
        folder, device, weights=weights, max_batch=3, max_context=64, options=options, **arguments
    ) as engine:
        assert engine.memory == Engine.plan(folder, device, weights=weights, max_batch=3, max_context=64,
                                            options=options, **arguments)  # fmt: skip
        return (
            engine.prefill_logits(PROMPTS),
            engine.generate(PROMPTS, NEW_TOKENS).token_ids,
            engine.memory.weights_bytes,
        )


@pytest.mark.parametrize("weights", ["q8_0", "packed"])
@pytest.mark.parametrize("name", ["llama-Q4_1", "gpt2-Q8_0", "llama-Q4_0"])
def test_cpu_equals_the_dequantised_twin(folders: dict[str, Path], name: str, weights: str) -> None:
    exact, tokens, _ = outcome(folders[name], "reference", weights, dtype="float64")
    single, _, dense_bytes = outcome(folders[name], "reference", weights)
    got, got_tokens, stored_bytes = outcome(folders[name], "cpu", weights)
    assert np.abs(got - exact).max() <= 2 * np.abs(single - exact).max() + 1e-5 * np.abs(exact).max()
    assert got_tokens == tokens
    assert stored_bytes < dense_bytes / 2


@pytest.mark.parametrize("name", ["llama-Q4_1", "gpt2-Q8_0"])
def test_packed_tokens_are_the_dense_folder_s(folders: dict[str, Path], name: str) -> None:
    assert outcome(folders[name], "cpu", "packed")[1] == outcome(folders[name], "cpu", "dense")[1]


@pytest.mark.parametrize("weights", ["q8_0", "packed"])
def test_quantised_activations_stray_a_little(folders: dict[str, Path], weights: str) -> None:
    """Rounding to 8 bits shows, and by no more than rounding to 8 bits can."""
    folder = folders["llama-Q4_1"]
    exact = outcome(folder, "cpu", weights)[0]
    rounded = outcome(folder, "cpu", weights, options=EngineOptions(quantised_activations=True))[0]
    error = np.sqrt(((rounded - exact) ** 2).mean() / (exact**2).mean())
    assert 1e-4 < error < 0.05


@pytest.mark.parametrize(("dtype", "most"), [("bfloat16", 0.05), ("float16", 0.006)])
def test_halved_weights_stray_a_little(folders: dict[str, Path], dtype: str, most: float) -> None:
    folder = folders["llama-Q4_1"]
    exact, _, bytes_32 = outcome(folder, "cpu", "dense")
    rounded, _, bytes_16 = outcome(folder, "cpu", "dense", dtype=dtype)
    error = np.sqrt(((rounded - exact) ** 2).mean() / (exact**2).mean())
    assert most / 500 < error < most
    assert bytes_16 < 0.6 * bytes_32


def test_debug_mode_knows_every_format(folders: dict[str, Path]) -> None:
    """Guards between blocks, poisoned memory, every output checked: nothing is found, nothing changes."""
    for weights in ("q8_0", "packed"):
        plain = outcome(folders["llama-Q4_1"], "cpu", weights)
        debug = outcome(
            folders["llama-Q4_1"], "cpu", weights, options=EngineOptions(prefill_chunk=8, debug=True, threads=3)
        )
        assert np.array_equal(plain[0], debug[0])
        assert plain[1] == debug[1]


def test_a_damaged_gguf_is_refused_before_memory_is_taken(folders: dict[str, Path], tmp_path: Path) -> None:
    source = folders["llama-Q4_1"]
    whole = (source / "model.gguf").read_bytes()
    folder = tmp_path / "model"
    folder.mkdir()
    for file in source.iterdir():
        if file.suffix != ".gguf":
            (folder / file.name).write_bytes(file.read_bytes())
    damaged = [
        (b"JUNK" + whole[4:], "not a GGUF"),
        (whole[: len(whole) // 2], "truncated or damaged"),
        (whole[:9], "truncated or damaged"),
        (whole.replace(b"blk.1.ffn_down.weight", b"blk.1.ffn_dawn.weight"), "no tensor"),
    ]
    for data, words in damaged:
        (folder / "model.gguf").write_bytes(data)
        with pytest.raises(CheckpointError, match=words):
            Engine.plan(folder, "cpu", weights="packed", max_context=64)
