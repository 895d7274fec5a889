"""Quality: perplexity by hand, divergences that are 0 exactly where nothing differs, and the command."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import typer
from tokenizers import Tokenizer, models, pre_tokenizers
from tokenizers.decoders import ByteLevel
from transformers import LlamaConfig, LlamaForCausalLM
from typer.testing import CliRunner

from eet_demo.commands import quality as quality_command
from eet_demo.engine.engine import Engine
from eet_demo.errors import NumericsError, RequestError
from eet_demo.results.quality import compare, cut, lines_of, measure_quality, score, summary, text_hash
from eet_demo.text.prompts import load_documents
from tests.parity.checkpoints import LLAMA


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small random Llama with a tokenizer of single bytes."""
    made = tmp_path_factory.mktemp("quality") / "llama"
    torch.manual_seed(3)
    LlamaForCausalLM(LlamaConfig(**LLAMA | {"intermediate_size": 160, "initializer_range": 0.2})).save_pretrained(made)
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={letter: i for i, letter in enumerate(letters)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = ByteLevel()
    tokenizer.save(str(made / "tokenizer.json"))
    return made


def log_softmax(logits: np.ndarray) -> torch.Tensor:
    return torch.log_softmax(torch.from_numpy(logits).double(), -1)


def test_score_is_torchs_cross_entropy_and_divergence() -> None:
    one, other = np.random.default_rng(0).standard_normal((2, 331), np.float32) * 4
    found = score(one, other, 7)
    assert found.reference_nll == pytest.approx(-log_softmax(one)[7].item(), rel=1e-12)
    assert found.nll == pytest.approx(-log_softmax(other)[7].item(), rel=1e-12)
    expected = torch.nn.functional.kl_div(log_softmax(other), log_softmax(one), reduction="sum", log_target=True)
    assert found.kl == pytest.approx(expected.item(), rel=1e-9)
    assert found.agrees == (one.argmax() == other.argmax())
    assert score(one, one + 100, 7).kl == pytest.approx(0, abs=1e-4), "a shift of all logits changes no probability"


def test_score_of_logits_that_are_not_finite_is_refused() -> None:
    logits = np.zeros(8, np.float32)
    logits[3] = np.nan
    with pytest.raises(NumericsError, match="NaN or infinite"):
        score(np.zeros(8, np.float32), logits, 0)


def test_summary_of_scores_by_hand() -> None:
    rows = np.eye(4, dtype=np.float32) * 3
    scores = [score(rows[0], rows[0], 0), score(rows[1], rows[2], 1)]
    likely = math.exp(3) / (math.exp(3) + 3)
    unlikely = 1 / (math.exp(3) + 3)
    found = summary(scores)
    assert found["reference_perplexity"] == pytest.approx(1 / likely)
    assert found["perplexity"] == pytest.approx(1 / math.sqrt(likely * unlikely))
    assert found["perplexity_ratio"] == pytest.approx(found["perplexity"] / found["reference_perplexity"])
    divergence = (likely - unlikely) * 3
    assert found["kl_mean"] == pytest.approx(divergence / 2)
    assert found["kl_max"] == pytest.approx(divergence)
    assert found["kl_p99"] == pytest.approx(0.99 * divergence)
    assert found["top1_agreement"] == 0.5


def test_windows_take_turns_and_predict_exactly_what_is_asked() -> None:
    documents = [list(range(10)), list(range(100, 104)), [7]]
    found = cut(documents, 10, window=4)
    assert found.texts == ((0, 1, 2, 3), (100, 101, 102, 103), (4, 5, 6, 7), (8, 9))
    assert (found.tokens, found.given) == (10, 1)
    assert cut(documents, 5, window=4).texts == ((0, 1, 2, 3), (100, 101, 102))
    assert cut(documents, 4, window=4).texts == ((0, 1, 2, 3), (100, 101))
    assert cut(documents, 4, window=4).tokens == 4
    with_prefix = cut(documents, 6, window=4, prefix=[55])
    assert with_prefix.texts == ((55, 0, 1, 2), (55, 100, 101, 102))
    assert with_prefix.tokens == 6
    two = cut(documents, 3, window=4, prefix=[55, 56])
    assert (two.texts, two.tokens) == (((55, 56, 0, 1), (55, 56, 100)), 3)
    for wrong in ((5, 1, ()), (0, 4, ()), (5, 2, (55, 56))):
        with pytest.raises(RequestError, match="so that one is predicted"):
            cut(documents, *wrong)


def test_perplexity_is_a_hand_computation_on_the_models_logits(folder: Path) -> None:
    """Against torch's cross entropy over the engine's own logits, window by window."""
    record = measure_quality(folder, device="reference", tokens=100, window=40)
    with Engine.from_pretrained(folder, device="reference", max_batch=1, max_context=40) as engine:
        documents = [list(document.text.encode()) for document in load_documents().values()]
        alphabet = Tokenizer.from_file(str(folder / "tokenizer.json"))
        losses = []
        for text in cut([alphabet.encode(bytes(ids).decode()).ids for ids in documents], 100, 40).texts:
            rows = np.concatenate([block for _, _, block in engine.logits([text])])
            assert rows.shape == (len(text), 331)
            losses.append(
                torch.nn.functional.cross_entropy(
                    torch.from_numpy(rows[:-1]).double(), torch.tensor(text[1:]), reduction="none"
                )
            )
    expected = torch.cat(losses)
    assert record["tokens"] == len(expected) == 100
    assert record["perplexity"] == pytest.approx(expected.mean().exp().item(), rel=1e-9)


@pytest.mark.parametrize("device", ["reference", "cpu"])
def test_identical_engines_differ_in_nothing(folder: Path, device: str) -> None:
    record = measure_quality(folder, device=device, tokens=90, window=32)
    assert (record["kl_mean"], record["kl_p99"], record["kl_max"]) == (0, 0, 0)
    assert (record["top1_agreement"], record["perplexity_ratio"]) == (1, 1)


def test_perturbed_engine_differs(folder: Path, tmp_path: Path) -> None:
    torch.manual_seed(4)
    LlamaForCausalLM(LlamaConfig(**LLAMA | {"initializer_range": 0.2})).save_pretrained(tmp_path / "other")
    limits: dict[str, Any] = {"device": "reference", "max_batch": 1, "max_context": 32}
    told: list[tuple[int, int]] = []
    with (
        Engine.from_pretrained(folder, **limits) as one,
        Engine.from_pretrained(tmp_path / "other", **limits) as other,
    ):
        windows = cut([list(range(3, 90))], 50, window=32)
        found = summary(compare(one, other, windows, lambda done, total: told.append((done, total))))
    assert found["kl_mean"] > 0.01
    assert found["kl_p99"] >= found["kl_mean"]
    assert found["top1_agreement"] < 1
    assert found["perplexity_ratio"] != 1
    assert told == [(31, 50), (50, 50)]


def test_quantised_weights_differ_a_little(folder: Path) -> None:
    record = measure_quality(folder, device="reference", weights="q8_0", tokens=200, window=64)
    assert 0 < record["kl_mean"] < 1e-2
    assert record["top1_agreement"] > 0.9
    assert record["perplexity_ratio"] == pytest.approx(1, abs=0.02)
    assert record["reference"] == {"dtype": "float32", "weights": "dense"}
    assert record["weights"] == "q8_0"


def test_record_names_the_texts_by_hash(folder: Path) -> None:
    record = measure_quality(folder, device="reference", tokens=20, window=16)
    documents = load_documents()
    assert record["texts"]["sha256"] == text_hash(documents.values())
    assert record["texts"]["documents"] == list(documents)
    changed = list(documents.values())[::-1]
    assert text_hash(changed) != record["texts"]["sha256"]
    json.dumps(record)


def test_folder_without_a_tokenizer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"no tokenizer\.json"):
        measure_quality(tmp_path)


def test_command_writes_the_record_and_a_table(folder: Path) -> None:
    quality_command.register(app := typer.Typer())
    app.callback()(lambda: None)
    arguments = ["quality", "--model", str(folder), "--device", "reference", "--weights", "q8_0"]
    result = CliRunner().invoke(app, [*arguments, "--tokens", "30", "--window", "16", "--json", "-"])
    assert result.exit_code == 0, result.output
    record = json.loads(result.stdout)
    assert record["tokens"] == 30
    assert record["window"] == 16
    for what, value in lines_of(record):
        assert what in result.stderr
        assert value in result.stderr
