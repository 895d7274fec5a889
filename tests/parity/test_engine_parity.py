"""The engine against transformers on the same checkpoint: logits within float32's own error, greedy tokens equal."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import PreTrainedModel

from eet_demo import Engine, EngineOptions
from tests.devices import SIM
from tests.parity.checkpoints import VARIANTS, make_checkpoint

DEVICES = ("reference", "cpu", SIM)


@pytest.fixture(scope="module", params=list(VARIANTS))
def checkpoint(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, PreTrainedModel]:
    folder = tmp_path_factory.mktemp(request.param)
    return folder, make_checkpoint(folder, request.param)


def prompts_of(model: PreTrainedModel, lengths: list[int], seed: int = 1) -> list[list[int]]:
    rng = np.random.default_rng(seed)
    return [rng.integers(0, model.config.vocab_size, length).tolist() for length in lengths]


def stock_logits(model: PreTrainedModel, prompt: list[int], dtype: torch.dtype) -> np.ndarray:
    """(len(prompt), vocab_size) of a full forward in `dtype`, weights rounded to float32 first."""
    copy = type(model)(model.config).eval()
    copy.load_state_dict(model.state_dict())
    with torch.no_grad():
        return copy.to(dtype)(torch.tensor([prompt])).logits[0].double().numpy()


def stock_greedy(model: PreTrainedModel, prompt: list[int], new_tokens: int) -> list[int]:
    ids = torch.tensor([prompt])
    out = model.generate(  # type: ignore[operator]
        ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=new_tokens,
        do_sample=False,
        eos_token_id=None,
        pad_token_id=0,
    )
    return out[0, len(prompt) :].tolist()


@pytest.mark.parametrize("device", DEVICES)
def test_logits_ragged_batch_in_passes(checkpoint: tuple[Path, PreTrainedModel], device: str) -> None:
    """Ragged rows, a length-1 prompt, several passes, poisoned memory: at most twice torch's own float32 error."""
    folder, model = checkpoint
    prompts = prompts_of(model, [37, 1, 64, 5])
    options = EngineOptions(prefill_chunk=17, debug=True)
    with Engine.from_pretrained(folder, device, max_batch=4, max_context=64, options=options) as engine:
        got = [np.full((len(prompt), model.config.vocab_size), np.nan) for prompt in prompts]
        for row, start, logits in engine.logits(prompts):
            got[row][start : start + len(logits)] = logits
        last = engine.prefill_logits(prompts)
    for row, prompt in enumerate(prompts):
        exact = stock_logits(model, prompt, torch.float64)
        torch_error = np.abs(stock_logits(model, prompt, torch.float32) - exact).max()
        error = np.abs(got[row] - exact)
        assert error.max() <= 2 * torch_error + 1e-5, (
            f"{device} row {row}: error {error.max():.2e} at {np.unravel_index(error.argmax(), error.shape)}, "
            f"torch {torch_error:.2e}"
        )
        assert np.abs(last[row] - exact[-1]).max() <= 2 * torch_error + 1e-5


@pytest.mark.parametrize("device", DEVICES)
def test_greedy_tokens_equal_to_the_last_slot(checkpoint: tuple[Path, PreTrainedModel], device: str) -> None:
    """A ragged batch generates what stock generates for each row alone, until the longest row's last slot is filled."""
    folder, model = checkpoint
    prompts, new_tokens = prompts_of(model, [40, 1, 19], seed=2), 24
    options = EngineOptions(prefill_chunk=32, debug=True)
    with Engine.from_pretrained(folder, device, max_batch=3, max_context=64, options=options) as engine:
        result = engine.generate(prompts, max_new_tokens=new_tokens)
    for row, prompt in enumerate(prompts):
        expected = stock_greedy(model, prompt, new_tokens)
        assert result.token_ids[row] == expected, f"{device} row {row} of {len(prompt)} tokens"
