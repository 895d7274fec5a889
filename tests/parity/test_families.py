"""Every family against transformers on a small random checkpoint; a feature left out would show in the logits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, PreTrainedModel
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from eet_demo import Engine, EngineOptions
from eet_demo.engine import checkpoint as checkpoint_module
from eet_demo.engine.families import spec_from_config
from eet_demo.engine.spec import ModelSpec
from eet_demo.errors import UnsupportedError
from tests.devices import CUDA, SIM
from tests.parity.family_checkpoints import FAMILIES, Family, greedy, logits_of, make_baichuan, make_family

DEVICES = ("reference", "cpu", SIM, CUDA)
REFUSED = {"stablelm-parallel": dict.fromkeys(("sim", "cuda"), "weights of its own for each head")}
BAICHUAN = {"baichuan-7b": False, "baichuan-13b": True}


@dataclass(frozen=True)
class Stock:
    """What transformers computes: per prompt, logits in float64 and how far its own float32 is from them."""

    folder: Path
    model: PreTrainedModel
    family: Family
    prompts: list[list[int]]
    exact: list[np.ndarray]
    errors: list[float]
    refused: dict[str, str]

    def engine(self, device: str, chunk: int = 17, weights: str = "dense") -> Engine:
        options, context = EngineOptions(prefill_chunk=chunk, debug=True), self.family.max_context
        return Engine.from_pretrained(
            self.folder, device, weights=weights, max_batch=4, max_context=context, options=options
        )


@pytest.fixture(scope="module", params=[*FAMILIES, *BAICHUAN])
def stock(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Stock:
    return stock_of(request.param, tmp_path_factory.mktemp(request.param))


def stock_of(name: str, folder: Path) -> Stock:
    if name in BAICHUAN:
        family, model = Family("llama", "Llama", {}), make_baichuan(folder, BAICHUAN[name])
    else:
        family, model = FAMILIES[name], make_family(folder, name)
    rng = np.random.default_rng(1)
    prompts = [rng.integers(3, model.config.vocab_size, length).tolist() for length in family.lengths]
    exact = [logits_of(model, prompt, torch.float64) for prompt in prompts]
    single = [logits_of(model, prompt, torch.float32) for prompt in prompts]
    errors = [float(np.abs(a - b).max()) for a, b in zip(single, exact, strict=True)]
    return Stock(folder, model, family, prompts, exact, errors, REFUSED.get(name, {}))


def logits_in_passes(engine: Engine, prompts: list[list[int]]) -> list[np.ndarray]:
    found: list[list[np.ndarray]] = [[] for _ in prompts]
    for row, start, logits in engine.logits(prompts):
        assert start == sum(map(len, found[row]))
        found[row].append(logits.copy())
    return [np.concatenate(rows) for rows in found]


@pytest.mark.parametrize("device", DEVICES)
def test_logits_of_a_ragged_batch_in_passes(stock: Stock, device: str) -> None:
    """At most twice torch's own float32 error, plus what float32 leaves of numbers of this size."""
    if device in stock.refused:
        with pytest.raises(UnsupportedError, match=stock.refused[device]):
            stock.engine(device)
        return
    with stock.engine(device) as engine:
        found = logits_in_passes(engine, stock.prompts)
    torch_error = max(stock.errors)
    for row, (logits, exact) in enumerate(zip(found, stock.exact, strict=True)):
        error = np.abs(logits - exact)
        assert error.max() <= 2 * torch_error + 1e-5, (
            f"{device} row {row}: error {error.max():.2e} at {np.unravel_index(error.argmax(), error.shape)}, "
            f"torch {torch_error:.2e}"
        )


def test_logits_of_quantised_weights(stock: Stock) -> None:
    """On the CPU what the reference computes with the same Q8_0 weights, but for float32's rounding."""
    found = []
    for device in ("reference", "cpu"):
        with stock.engine(device, weights="q8_0") as engine:
            found.append(logits_in_passes(engine, stock.prompts))
    for row, (reference, cpu, torch_error) in enumerate(zip(*found, stock.errors, strict=True)):
        assert np.abs(reference - cpu).max() <= 4 * torch_error + 2e-5, f"row {row}"


@pytest.mark.parametrize("device", ["reference", "cpu"])
def test_greedy_tokens(stock: Stock, device: str) -> None:
    """Decode steps of a ragged batch, the first of them beyond every window.

    Where transformers rotates by the length of the moment, and the engine by its max_context, the reference decides.
    """
    new_tokens = stock.family.new_tokens or 4
    prompts = [prompt[: stock.family.max_context - new_tokens] for prompt in stock.prompts[:3]]
    with stock.engine(device, chunk=32) as engine:
        written = engine.generate(prompts, max_new_tokens=new_tokens).token_ids
    if stock.family.new_tokens:
        expected = [greedy(stock.model, prompt, new_tokens) for prompt in prompts]
    else:
        with stock.engine("reference") as engine:
            expected = [engine.generate([prompt], max_new_tokens=new_tokens).token_ids[0] for prompt in prompts]
    assert written == expected


def dropped(spec: ModelSpec) -> dict[str, ModelSpec]:
    """The spec without each of its features in turn; the weights that it names stay the same."""
    plain: dict[str, Any] = {
        "windows": (),
        "attention_soft_cap": None,
        "logit_soft_cap": None,
        "embedding_scale": 1.0,
        "residual_scale": 1.0,
        "logit_scale": 1.0,
        "attention_scale": 0.0,
        "rope_scaling": None,
        "local_rope_theta": None,
        "rope_pairs": "half",
        "embedding_norm": False,
        "parallel_residual": False,
        "qk_norm": "none",
    }
    changed = {name: {name: value} for name, value in plain.items() if getattr(spec, name) != value}
    if spec.family == "stablelm":  # in turn it needs a norm that this checkpoint lacks
        changed.pop("parallel_residual", None)
    if set(spec.positions) - {"learned"}:
        changed["positions"] = {"positions": ("none",) * spec.num_layers, "rope_scaling": None}
    if "none" in spec.positions:
        changed["layers without positions"] = {"positions": ("rotary",) * spec.num_layers}
    if 0 < spec.rotary_dim < spec.head_dim:
        changed["partial rotary"] = {"rotary_dim": spec.head_dim}
    for bias in ("qkv_bias", "out_bias", "mlp_bias", "head_bias"):
        if getattr(spec, bias):
            changed[bias] = {bias: False}
    if spec.norm_eps > 1:
        changed["norm_eps"] = {"norm_eps": 1e-5}
    if spec.windows and None in spec.windows:
        changed["windows of some layers"] = {"windows": (max(w for w in spec.windows if w),) * spec.num_layers}
    return {name: replace(spec, **values) for name, values in changed.items()}


def test_no_feature_can_be_left_out(stock: Stock, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tolerance tells: without any one of its features, the family's logits are far outside it."""
    spec = spec_from_config(checkpoint_module.Checkpoint(stock.folder).config)
    longest = max(range(len(stock.prompts)), key=lambda row: len(stock.prompts[row]))
    prompt, exact = [stock.prompts[longest]], stock.exact[longest]
    weak = []
    for name, changed in dropped(spec).items():
        if name == "rope_scaling" and same_frequencies(spec, changed, len(prompt[0])):
            continue  # dynamic, within the trained context
        monkeypatch.setattr(checkpoint_module, "spec_from_config", answering(changed))
        monkeypatch.setattr(checkpoint_module.Checkpoint, "check", lambda self: None)
        with Engine.from_pretrained(stock.folder, "reference", max_context=len(prompt[0])) as engine:
            moved = float(np.abs(logits_in_passes(engine, prompt)[0] - exact).max())
        if moved < 20 * (2 * stock.errors[longest] + 1e-5):
            weak.append(f"{name}: {moved:.2e}")
    assert not weak, f"these could be left out unseen: {weak}"


def same_frequencies(one: ModelSpec, other: ModelSpec, context: int) -> bool:
    return np.array_equal(one.rotary_frequencies(context), other.rotary_frequencies(context))


def answering(spec: ModelSpec) -> Callable[[Any], ModelSpec]:
    return lambda config: spec


SCALINGS: dict[str, dict[str, Any]] = {
    "default": {"rope_type": "default"},
    "linear": {"rope_type": "linear", "factor": 8.0},
    "dynamic": {"rope_type": "dynamic", "factor": 2.5},
    "llama3": {
        "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 2048,
    },
    "yarn": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 2048},
    "yarn-all": {
        "rope_type": "yarn", "factor": 40.0, "original_max_position_embeddings": 1024, "mscale": 1.0,
        "mscale_all_dim": 0.707, "beta_fast": 24.0, "beta_slow": 2.0, "truncate": False,
    },
    "yarn-named-factor": {"rope_type": "yarn", "factor": 4.0, "attention_factor": 1.3},
    "longrope": {
        "rope_type": "longrope", "original_max_position_embeddings": 1024,
        "short_factor": [1 + i / 64 for i in range(64)], "long_factor": [2 + i for i in range(64)],
    },
}  # fmt: skip


@pytest.mark.parametrize("context", [512, 8192, 20000])
@pytest.mark.parametrize("name", SCALINGS)
def test_rotary_frequencies_and_factor(name: str, context: int) -> None:
    """Of a head of 128, as transformers' own functions compute them for that length."""
    fields: dict[str, Any] = {
        "vocab_size": 101, "hidden_size": 512, "intermediate_size": 88, "num_hidden_layers": 1,
        "num_attention_heads": 4, "max_position_embeddings": 8192, "rms_norm_eps": 1e-6,
        "rope_parameters": {"rope_theta": 500000.0} | SCALINGS[name],
    }  # fmt: skip
    config = LlamaConfig(**fields)
    spec = spec_from_config(config.to_dict())
    if name == "default":
        expected, factor = LlamaRotaryEmbedding.compute_default_rope_parameters(config)
    else:
        expected, factor = ROPE_INIT_FUNCTIONS[SCALINGS[name]["rope_type"]](config, seq_len=context)
    np.testing.assert_allclose(spec.rotary_frequencies(context), expected.numpy(), rtol=1e-6)
    assert spec.scale == pytest.approx(128**-0.5 * factor**2)
