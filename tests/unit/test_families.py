"""Configs of every family: what is supported becomes a spec, what is not is refused by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

from eet_demo.engine.checkpoint import Checkpoint
from eet_demo.engine.families import NAMES, READERS, spec_from_config, weights_of
from eet_demo.engine.spec import ModelSpec
from eet_demo.engine.weights import Part
from eet_demo.errors import EetError, UnsupportedError

SIZES: dict[str, Any] = {
    "vocab_size": 101,
    "hidden_size": 64,
    "intermediate_size": 88,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "max_position_embeddings": 96,
    "rms_norm_eps": 1e-6,
    "ffn_dim": 88,
    "n_embd": 64,
    "n_layer": 4,
    "n_head": 4,
    "n_positions": 96,
    "rotary_dim": 8,
    "head_dim": 16,
}


def spec_of(model_type: str, **changed: Any) -> ModelSpec:
    return spec_from_config(SIZES | {"model_type": model_type} | changed)


@pytest.mark.parametrize("model_type", READERS)
def test_every_family_has_names_for_its_weights(model_type: str) -> None:
    spec = spec_of(model_type)
    assert spec.family in NAMES
    weights = weights_of(spec)
    assert len({weight.name for weight in weights}) == len(weights)
    assert {"embed.tokens", "layers.3.qkv.weight", "final_norm.weight"} <= {weight.name for weight in weights}


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"model_type": "llama", "quantization_config": {"bits": 4}}, "quantised weights"),
        ({"model_type": "mixtral", "num_local_experts": 8}, "mixtral: a mixture of experts"),
        ({"model_type": "qwen3_moe", "num_experts": 8}, "mixture of experts"),
        ({"model_type": "deepseek_v3", "n_routed_experts": 8}, "mixture of experts"),
        ({"model_type": "gpt2", "add_cross_attention": True}, "cross attention"),
        ({"model_type": "t5", "is_encoder_decoder": True}, "an encoder"),
        ({"model_type": "gemma3", "vision_config": {"depth": 1}}, "images"),
        ({"model_type": "gemma3_text", "use_bidirectional_attention": True}, "later tokens"),
        ({"model_type": "gemma3_text", "attn_logit_softcapping": 50.0}, "soft cap on scores"),
        ({"model_type": "gpt2", "scale_attn_by_inverse_layer_idx": True}, "scale attn by inverse layer idx"),
        ({"model_type": "opt", "do_layer_norm_before": False}, "after its residual"),
        ({"model_type": "opt", "word_embed_proj_dim": 32}, "another width"),
        ({"model_type": "bloom", "apply_residual_connection_post_layernorm": True}, "after the norm"),
        ({"model_type": "baichuan", "vocab_size": 125696}, "normalised head of Baichuan 2"),
        ({"model_type": "llama", "partial_rotary_factor": 0.5}, "partial rotation"),
        ({"model_type": "llama", "rope_scaling": {"type": "axial", "factor": 2.0}}, "'axial'.*yarn"),
        ({"model_type": "qwen2", "rope_scaling": {"type": "default", "mrope_section": [1]}}, "rotary of several axes"),
        ({"model_type": "mistral", "layer_types": ["full_attention"] * 4}, "layers of several kinds"),
        ({"model_type": "gemma2", "layer_types": ["chunked_attention"] * 4}, "'chunked_attention'"),
        ({"model_type": "smollm3", "rope_scaling": {"type": "yarn", "factor": 2.0}}, "'yarn'.*whole heads of every"),
        ({"model_type": "stablelm", "rope_scaling": {"type": "yarn", "factor": 2.0}}, "'yarn'.*whole heads"),
        ({"model_type": "mamba"}, "'mamba'.*baichuan.*stablelm"),
        ({"model_type": "baichuan", "hidden_size": None}, "lacks the field 'hidden_size'"),
        ({"model_type": "llama", "per_layer_config": {"0": {"head_dim": 8}}}, "layers that differ"),
    ],
)
def test_what_is_not_supported_is_refused_by_name(config: dict[str, Any], words: str) -> None:
    with pytest.raises(UnsupportedError, match=words):
        spec_from_config({key: value for key, value in (SIZES | config).items() if value is not None})


VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-5, 5),
    st.sampled_from([10**400, 2**40, 0.0, -1.0, 1e308, float("nan"), float("inf"), "x", "yarn", "su", [], {}, [1, 2]]),
    st.dictionaries(
        st.sampled_from(["rope_type", "factor", "rope_theta", "partial_rotary_factor", "full_attention"]),
        st.sampled_from(["dynamic", "yarn", "longrope", "linear", "llama3", 0.3, 1, 8.0, None, {}, [1.0]]),
    ),
)
FIELDS = [
    *SIZES, "rope_scaling", "rope_parameters", "rope_theta", "layer_types", "no_rope_layers", "hidden_act",
    "tie_word_embeddings", "num_key_value_heads", "partial_rotary_factor", "rotary_pct", "query_pre_attn_scalar",
    "logits_scaling", "use_sliding_window", "original_max_position_embeddings", "layer_norm_epsilon",
]  # fmt: skip


@settings(max_examples=400, deadline=None)
@given(st.sampled_from(sorted(READERS)), st.dictionaries(st.sampled_from(FIELDS), VALUES, max_size=4))
def test_any_config_is_a_spec_or_an_error_of_ours(model_type: str, changed: dict[str, Any]) -> None:
    try:
        spec = spec_of(model_type, **changed)
    except EetError:
        return
    for layer in range(spec.num_layers):
        assert np.isfinite(spec.rotary_frequencies(4096, layer)).all()


def test_rows_of_a_part() -> None:
    """The second third of every head of 2 rows, of 3 heads fused: rows 2, 3, 8, 9, 14, 15 of 18."""
    part = Part("t", 6, first=2, of=18, run=2, stride=6)
    assert part.tensor_rows == 18
    assert part.source_rows(0, 6).tolist() == [2, 3, 8, 9, 14, 15]
    assert part.source_rows(3, 5).tolist() == [9, 14]
    assert Part("t", 4, first=3, of=9).source_rows(1, 3).tolist() == [4, 5]


def test_lengths_that_a_scaling_reaches() -> None:
    dynamic = {"rope_type": "dynamic", "factor": 4.0}
    yarn = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}
    assert spec_of("llama", rope_scaling=dynamic).max_positions == 384
    assert spec_of("llama", rope_scaling=yarn).max_positions == 256
    assert spec_of("llama", rope_scaling={"rope_type": "linear", "factor": 4.0}).max_positions == 96


def test_parts_are_read_from_where_they_lie(tmp_path: Path) -> None:
    """BLOOM's heads of q, k and v in turn; OPT's positions after two rows, under another prefix; Gemma's weight - 1."""
    rng = np.random.default_rng(0)

    def read(model_type: str, prefix: str, name: str) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        config = SIZES | {"model_type": model_type, "hidden_size": 64, "num_hidden_layers": 1, "n_layer": 1}
        tensors = {}
        for weight in weights_of(spec_from_config(config)):
            for part in weight.parts:
                shape = (part.tensor_rows, weight.columns) if weight.is_matrix else (part.tensor_rows,)
                tensors[prefix + part.tensor] = rng.normal(size=shape).astype(np.float32)
        folder = tmp_path / model_type
        folder.mkdir()
        (folder / "config.json").write_text(json.dumps(config))
        save_file(tensors, folder / "model.safetensors")
        checkpoint = Checkpoint(folder)
        checkpoint.check()
        weight = next(weight for weight in weights_of(checkpoint.spec) if weight.name == name)
        return np.concatenate([block.values for block in checkpoint.blocks(weight)]), tensors

    fused, tensors = read("bloom", "transformer.", "layers.0.qkv.weight")
    stored = tensors["transformer.h.0.self_attention.query_key_value.weight"].reshape(4, 3, 16, 64)
    assert np.array_equal(fused, stored.swapaxes(0, 1).reshape(192, 64))
    for prefix in ("model.", ""):
        positions, tensors = read("opt", prefix, "embed.positions")
        assert np.array_equal(positions, tensors[f"{prefix}decoder.embed_positions.weight"][2:])
        (tmp_path / "opt").rename(tmp_path / f"opt{prefix}")
    norm, tensors = read("gemma2", "", "final_norm.weight")
    assert np.array_equal(norm, tensors["model.norm.weight"] + np.float32(1))
