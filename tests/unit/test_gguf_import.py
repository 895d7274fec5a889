"""A GGUF written in llama.cpp's conventions becomes the very model it was written from."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from safetensors import safe_open
from transformers import AutoModelForCausalLM, GgufConfig, PreTrainedModel

from eet_demo.engine.checkpoint import Checkpoint
from eet_demo.errors import CheckpointError, UnsupportedError
from eet_demo.models.gguf.convert import convert
from tests.gguf_files import FIELDS, byte_level_tokenizer, llama3_factors, random_model, write_gguf

QUANT = gguf.GGMLQuantizationType
LLAMA3: dict[str, Any] = {"factor": 32.0, "low": 1.0, "high": 4.0, "original": 8192}
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {}),
    "llama-tied-biases": ("llama", {"tie_word_embeddings": True, "attention_bias": True, "mlp_bias": True}),
    "llama-head-dim-80": ("llama", {"head_dim": 80}),
    "llama-14-heads-on-2": ("llama", {"hidden_size": 112, "num_attention_heads": 14}),
    "llama-linear-rope": (
        "llama",
        {"rope_parameters": {"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0}},
    ),
    "gpt2": ("gpt2", {}),
    "gpt2-untied": ("gpt2", {"tie_word_embeddings": False}),
}


def converted(path: Path, folder: Path) -> Path:
    folder.mkdir()
    convert(path, folder)
    return folder


def logits(model: PreTrainedModel) -> torch.Tensor:
    with torch.no_grad():
        return model(torch.arange(3, 60)[None]).logits


@pytest.mark.parametrize("name", MODELS)
def test_converted_folder_has_the_models_own_logits(tmp_path: Path, name: str) -> None:
    kind, fields = MODELS[name]
    model = random_model(kind, **fields)
    folder = converted(write_gguf(tmp_path / "m.gguf", model), tmp_path / "m")
    loaded = AutoModelForCausalLM.from_pretrained(folder)
    assert loaded.dtype == torch.float32
    assert torch.equal(logits(loaded), logits(model))
    Checkpoint(folder).check()


def test_llama3_scaling_is_recovered_from_its_factors(tmp_path: Path) -> None:
    rope = {
        "rope_type": "llama3",
        "rope_theta": 500000.0,
        "factor": LLAMA3["factor"],
        "low_freq_factor": LLAMA3["low"],
        "high_freq_factor": LLAMA3["high"],
        "original_max_position_embeddings": LLAMA3["original"],
    }
    model = random_model("llama", rope_parameters=rope)
    factors = llama3_factors(500000.0, model.config.head_dim, **LLAMA3)
    assert 1.0 < np.median(factors) < 32.0, "some factors must be blended for this test to mean anything"
    path = write_gguf(tmp_path / "m.gguf", model, extra=[("rope_freqs.weight", factors)])
    folder = converted(path, tmp_path / "m")
    config = json.loads((folder / "config.json").read_text())
    assert config["rope_scaling"] | {"rope_theta": config["rope_theta"]} == rope
    assert torch.equal(logits(AutoModelForCausalLM.from_pretrained(folder)), logits(model))


def test_unknown_rotary_factors_are_refused(tmp_path: Path) -> None:
    factors = llama3_factors(500000.0, 16, factor=8.0, low=1.0, high=4.0, original=4096)
    path = write_gguf(
        tmp_path / "m.gguf",
        random_model("llama"),
        extra=[("rope_freqs.weight", factors)],
        metadata={"llama.rope.freq_base": 500000.0},
    )
    with pytest.raises(UnsupportedError, match=r"rotary factors"):
        converted(path, tmp_path / "m")


@pytest.mark.parametrize("kind", [QUANT.F16, QUANT.BF16, QUANT.Q8_0, QUANT.Q4_0, QUANT.Q4_1])
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_quantised_file_gives_transformers_own_dequantised_model(
    tmp_path: Path, family: str, kind: gguf.GGMLQuantizationType
) -> None:
    fields = {"n_positions": 1024} if family == "gpt2" else {}  # transformers reads no other from a GGUF
    folder = converted(write_gguf(tmp_path / "m.gguf", random_model(family, **fields), kind), tmp_path / "m")
    theirs = AutoModelForCausalLM.from_pretrained(
        tmp_path, gguf_file="m.gguf", dtype=torch.float32, quantization_config=GgufConfig(dequantize=True)
    )
    ours = AutoModelForCausalLM.from_pretrained(folder)
    assert torch.equal(logits(ours), logits(theirs))


def test_config_says_short_decimals_and_special_ids(tmp_path: Path) -> None:
    model = random_model("llama", rms_norm_eps=1e-5)
    folder = converted(write_gguf(tmp_path / "m.gguf", model), tmp_path / "m")
    config = json.loads((folder / "config.json").read_text())
    assert config["rms_norm_eps"] == 1e-5
    assert config["architectures"] == ["LlamaForCausalLM"]
    ids = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2}
    assert {name: config[name] for name in ids} == ids
    assert json.loads((folder / "generation_config.json").read_text()) == ids


def test_tied_head_is_written_once_even_if_the_file_repeats_it(tmp_path: Path) -> None:
    model = random_model("gpt2")
    repeated = [("output.weight", model.state_dict()["transformer.wte.weight"].numpy())]
    folder = converted(write_gguf(tmp_path / "m.gguf", model, extra=repeated), tmp_path / "m")
    assert json.loads((folder / "config.json").read_text())["tie_word_embeddings"] is True
    with safe_open(folder / "model.safetensors", "np") as tensors:
        assert "lm_head.weight" not in tensors.keys()  # noqa: SIM118 - it is no dict
    assert torch.equal(logits(AutoModelForCausalLM.from_pretrained(folder)), logits(model))


def test_conversion_holds_a_few_tensors_and_not_the_model(tmp_path: Path) -> None:
    model = random_model("llama", hidden_size=256, intermediate_size=512, num_hidden_layers=12)
    path = write_gguf(tmp_path / "m.gguf", model, QUANT.Q8_0)
    largest, total = 4 * 512 * 256, sum(4 * p.numel() for p in model.parameters())
    tracemalloc.start()
    converted(path, tmp_path / "m")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    fixed = 4_000_000  # parsed metadata, the modules' own
    assert total > fixed + 6 * largest, "the model must be large enough for this test to mean anything"
    assert peak < fixed + 6 * largest, f"{peak:,} bytes at the peak for a model of {total:,}"


def test_progress_counts_every_byte_once(tmp_path: Path) -> None:
    model = random_model("llama")
    seen: list[tuple[str, int, int]] = []
    (tmp_path / "m").mkdir()
    convert(write_gguf(tmp_path / "m.gguf", model), tmp_path / "m", lambda *step: seen.append(step))
    total = 4 * sum(parameter.numel() for parameter in model.parameters())
    assert [step[1] for step in seen] == sorted({step[1] for step in seen})
    assert seen[-1] == ("convert", total, total)


@pytest.mark.parametrize("architecture", ["gemma2", "qwen2", "mamba"])
def test_other_architecture_is_refused_by_name(tmp_path: Path, architecture: str) -> None:
    writer = gguf.GGUFWriter(tmp_path / "m.gguf", architecture)
    writer.add_tensor("token_embd.weight", np.zeros((4, 32), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(UnsupportedError, match=rf"'{architecture}'.*llama and gpt2"):
        converted(tmp_path / "m.gguf", tmp_path / "m")


def test_mixture_of_experts_is_refused(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "m.gguf", random_model("llama"), metadata={"llama.expert_count": 8})
    with pytest.raises(UnsupportedError, match="mixture of experts"):
        converted(path, tmp_path / "m")


def test_partly_rotated_heads_are_refused(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "m.gguf", random_model("llama"), metadata={"llama.rope.dimension_count": 8})
    with pytest.raises(UnsupportedError, match="rotates 8 of 16"):
        converted(path, tmp_path / "m")


def test_yarn_scaling_is_refused_by_name(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "m.gguf", random_model("llama"), metadata={"llama.rope.scaling.type": "yarn"})
    with pytest.raises(UnsupportedError, match="'yarn'"):
        converted(path, tmp_path / "m")


def test_unknown_tensor_is_refused_by_name(tmp_path: Path) -> None:
    odd = [("blk.0.attn_q_norm.weight", np.ones(16, np.float32))]
    path = write_gguf(tmp_path / "m.gguf", random_model("llama"), extra=odd)
    with pytest.raises(CheckpointError, match=r"blk\.0\.attn_q_norm\.weight"):
        converted(path, tmp_path / "m")


@pytest.mark.parametrize("key", ["block_count", "embedding_length", "attention.layer_norm_rms_epsilon"])
def test_missing_metadata_is_named(tmp_path: Path, key: str) -> None:
    path = write_gguf(tmp_path / "m.gguf", random_model("llama"), metadata={f"llama.{key}": None})
    with pytest.raises(CheckpointError, match=rf"llama\.{key}"):
        converted(path, tmp_path / "m")


def test_rows_that_no_head_count_divides_are_refused(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "m.gguf", random_model("llama"), metadata={"llama.attention.head_count": 7})
    with pytest.raises(CheckpointError, match="7 heads"):
        converted(path, tmp_path / "m")


@pytest.mark.parametrize("magic", [b"", b"GGU", b"GGML", b"PK\x03\x04", b"\0" * 64])
def test_wrong_magic_is_refused(tmp_path: Path, magic: bytes) -> None:
    (tmp_path / "m.gguf").write_bytes(magic)
    with pytest.raises(CheckpointError, match="not a GGUF file"):
        converted(tmp_path / "m.gguf", tmp_path / "m")


def test_file_cut_anywhere_is_refused(tmp_path: Path) -> None:
    whole = write_gguf(tmp_path / "whole.gguf", random_model("llama")).read_bytes()
    for number, share in enumerate((0.00001, 0.0001, 0.001, 0.01, 0.05, 0.2, 0.5, 0.9, 0.99999)):
        size = max(5, int(len(whole) * share))
        (tmp_path / "m.gguf").write_bytes(whole[:size])
        with pytest.raises(CheckpointError, match="truncated or damaged"):
            converted(tmp_path / "m.gguf", tmp_path / f"m{number}")


def test_random_header_bytes_never_escape_as_another_error(tmp_path: Path) -> None:
    whole = bytearray(write_gguf(tmp_path / "whole.gguf", random_model("llama")).read_bytes())
    random = np.random.default_rng(0)
    refused = 0
    for number in range(60):
        damaged = bytearray(whole)
        for position in random.integers(4, 2000, 3):
            damaged[position] ^= int(random.integers(1, 256))
        (tmp_path / "m.gguf").write_bytes(damaged)
        try:
            converted(tmp_path / "m.gguf", tmp_path / f"m{number}")
        except (CheckpointError, UnsupportedError):
            refused += 1
    assert refused > 20, "most damage must be noticed"


@pytest.mark.slow
def test_default_models_weights_are_the_blocks_own_values(model_dir: Path) -> None:
    """Q4_1 and Q8_0 by their formulas (ggml-quants.c), and rows back in order, on the real file."""
    file = next(model_dir.glob("*.gguf"))
    blocks = {tensor.name: tensor for tensor in gguf.GGUFReader(file).tensors}
    with safe_open(model_dir / "model.safetensors", "np") as tensors:
        embedded = tensors.get_slice("model.embed_tokens.weight")[:100]
        ours = tensors.get_tensor("model.layers.7.self_attn.q_proj.weight")

    embedding = blocks["token_embd.weight"].data[:100].reshape(-1, 34)
    scales, values = embedding[:, :2].copy().view(np.float16), embedding[:, 2:].view(np.int8)
    expected = (scales.astype(np.float32) * values).reshape(100, -1)
    assert np.array_equal(embedded, expected)

    query = blocks["blk.7.attn_q.weight"].data.reshape(-1, 20)
    scale, minimum = (query[:, at : at + 2].copy().view(np.float16).astype(np.float32) for at in (0, 2))
    nibbles = np.concatenate([query[:, 4:] & 15, query[:, 4:] >> 4], axis=1)
    rows = (scale * nibbles + minimum).reshape(576, 576)
    for head in range(9):
        for i in range(32):
            for half in (0, 1):
                assert np.array_equal(ours[64 * head + 32 * half + i], rows[64 * head + 2 * i + half])


def test_tiny_tokenizer_covers_the_tiny_models() -> None:
    """The fixture itself: without it the files above would carry ids that the model lacks."""
    assert byte_level_tokenizer(FIELDS["llama"]["vocab_size"]).get_vocab_size() == FIELDS["llama"]["vocab_size"]
