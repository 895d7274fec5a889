"""The default model itself: the engine writes what stock writes, token for token, on documents a visitor reads."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

from eet_demo import Engine
from eet_demo.text.prompts import build_prompt
from eet_demo.text.tokens import Tokenizer

pytestmark = pytest.mark.slow

NEW_TOKENS = 64


@pytest.fixture(scope="module")
def stock(model_dir: Path) -> PreTrainedModel:
    return AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.float32, local_files_only=True).eval()


@pytest.fixture(scope="module")
def engine(model_dir: Path) -> Iterator[Engine]:
    with Engine.from_pretrained(model_dir, "cpu", max_batch=2, max_context=640) as engine:
        yield engine


def prompts_of(model_dir: Path, context: int, batch: int) -> list[list[int]]:
    return build_prompt(
        Tokenizer(model_dir), "one-word-at-a-time", "What is a token?", context=context, batch=batch, ragged=batch > 1
    )


@pytest.mark.parametrize(("context", "batch"), [(128, 1), (520, 2)])
def test_greedy_tokens_equal_stock(
    model_dir: Path, stock: PreTrainedModel, engine: Engine, context: int, batch: int
) -> None:
    """64 tokens of each row; the longer prompts take several passes."""
    prompts = prompts_of(model_dir, context, batch)
    written = engine.generate(prompts, max_new_tokens=NEW_TOKENS).token_ids
    for prompt, tokens in zip(prompts, written, strict=True):
        ids = torch.tensor([prompt])
        out = stock.generate(  # type: ignore[operator]
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=NEW_TOKENS,
            do_sample=False,
            eos_token_id=None,
            pad_token_id=0,
        )
        assert tokens == out[0, len(prompt) :].tolist()


def test_logits_are_as_close_as_float32_allows(model_dir: Path, stock: PreTrainedModel, engine: Engine) -> None:
    """Against float64, over every position of a prompt: at most twice torch's own error, root mean square."""
    prompt = prompts_of(model_dir, 96, 1)[0]
    ids = torch.tensor([prompt])
    with torch.no_grad():
        single = stock(ids).logits[0].double().numpy()
        exact = stock.double()(ids).logits[0].numpy()
        stock.float()
    got = np.concatenate([logits for _, _, logits in engine.logits([prompt])])
    error, torch_error = (np.sqrt(((values - exact) ** 2).mean()) for values in (got, single))
    assert error <= 2 * torch_error, f"error {error:.2e}, torch's {torch_error:.2e}"


def test_plan_is_what_the_process_grows_by(model_dir: Path) -> None:
    """Loading takes the plan and little else: the checkpoint is read in blocks, never whole."""
    process = psutil.Process()
    before = process.memory_info().rss
    with Engine.from_pretrained(model_dir, "cpu", max_batch=1, max_context=2048) as engine:
        grown = process.memory_info().rss - before
        assert grown <= engine.memory.total_bytes + (100 << 20)
        assert grown >= engine.memory.weights_bytes


@pytest.mark.parametrize("context", [96, 520])
def test_packed_weights_write_the_same_tokens(model_dir: Path, engine: Engine, context: int) -> None:
    """The GGUF's own 4-bit and 8-bit blocks hold exactly the numbers of the float32 folder, and nothing is rounded."""
    if not list(model_dir.glob("*.gguf")):
        pytest.skip("the model's folder has no .gguf file")
    prompts = prompts_of(model_dir, context, 1)
    with Engine.from_pretrained(model_dir, "cpu", weights="packed", max_batch=1, max_context=640) as packed:
        assert packed.memory.weights_bytes * 5 < engine.memory.weights_bytes
        assert packed.generate(prompts, NEW_TOKENS).token_ids == engine.generate(prompts, NEW_TOKENS).token_ids
        got = np.concatenate([logits for _, _, logits in packed.logits(prompts)])
    exact = np.concatenate([logits for _, _, logits in engine.logits(prompts)])
    assert np.abs(got - exact).max() < 1e-3
