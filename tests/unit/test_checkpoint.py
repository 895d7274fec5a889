"""Reading model folders: every dtype and layout, and every way a folder can be broken, each named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from eet_demo.engine.checkpoint import Checkpoint
from eet_demo.engine.families import spec_from_config, weights_of
from eet_demo.engine.tensor_files import READ_BYTES
from eet_demo.errors import CheckpointError, UnsupportedError

CONFIG: dict[str, Any] = {
    "model_type": "llama",
    "vocab_size": 40,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 32,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": True,
}


def tensors_of(config: dict[str, Any]) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    tensors = {}
    for weight in weights_of(spec_from_config(config)):
        for part in weight.parts:
            shape = (part.rows, weight.columns) if weight.is_matrix else (part.rows,)
            tensors[part.tensor] = rng.normal(size=shape[::-1] if part.transposed else shape).astype(np.float32)
    return tensors


def write(folder: Path, tensors: dict[str, np.ndarray], config: dict[str, Any] = CONFIG) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    save_file(tensors, folder / "model.safetensors")
    return folder


def read_all(folder: Path) -> dict[str, np.ndarray]:
    checkpoint = Checkpoint(folder)
    checkpoint.check()
    return {
        f"{weight.name}/{part}": np.concatenate([b.values for b in checkpoint.blocks(weight) if b.part == part])
        for weight in weights_of(checkpoint.spec)
        for part in range(len(weight.parts))
    }


def test_values_arrive_bit_for_bit(tmp_path: Path) -> None:
    tensors = tensors_of(CONFIG)
    read = read_all(write(tmp_path / "m", tensors))
    assert (read["layers.0.qkv.weight/1"] == tensors["model.layers.0.self_attn.k_proj.weight"]).all()
    assert (read["layers.0.up.weight/1"] == tensors["model.layers.0.mlp.up_proj.weight"]).all()
    assert len(read) == len(tensors)


def test_conv1d_is_transposed(tmp_path: Path) -> None:
    config = {"model_type": "gpt2", "vocab_size": 40, "n_embd": 16, "n_head": 2, "n_layer": 1, "n_positions": 8}
    tensors = tensors_of(config)
    prefixed = {f"transformer.{name}": value for name, value in tensors.items()}
    for index, stored in enumerate((tensors, prefixed)):
        read = read_all(write(tmp_path / str(index), stored, config))
        assert (read["layers.0.up.weight/0"] == tensors["h.0.mlp.c_fc.weight"].T).all()


def test_large_tensors_come_in_blocks(tmp_path: Path) -> None:
    config = CONFIG | {"vocab_size": 3 * READ_BYTES // 64 + 5}
    tensors = tensors_of(config)
    checkpoint = Checkpoint(write(tmp_path / "m", tensors, config))
    blocks = list(checkpoint.blocks(weights_of(checkpoint.spec)[0]))
    assert len(blocks) == 4
    assert all(block.start % 16 == 0 and block.values.nbytes <= READ_BYTES for block in blocks)
    assert (np.concatenate([b.values for b in blocks]) == tensors["model.embed_tokens.weight"]).all()


def test_half_types_widen_exactly(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    from safetensors.torch import save_file as save_torch

    for name, dtype in (("bf", torch.bfloat16), ("f16", torch.float16), ("f64", torch.float64)):
        folder = write(tmp_path / name, {})
        tensors = {key: torch.from_numpy(value).to(dtype) for key, value in tensors_of(CONFIG).items()}
        save_torch(tensors, folder / "model.safetensors")
        expected = tensors["model.layers.0.mlp.down_proj.weight"].float().numpy()
        assert (read_all(folder)["layers.0.down.weight/0"] == expected).all()


def test_shards_are_followed(tmp_path: Path) -> None:
    tensors = tensors_of(CONFIG)
    folder = write(tmp_path / "m", {})
    (folder / "model.safetensors").unlink()
    names = sorted(tensors)
    index = {name: f"model-0000{1 + i % 2}-of-00002.safetensors" for i, name in enumerate(names)}
    for file in set(index.values()):
        save_file({name: tensors[name] for name in names if index[name] == file}, folder / file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    assert len(read_all(folder)) == len(tensors)
    (folder / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(CheckpointError, match="model-00002-of-00002"):
        Checkpoint(folder)


def test_missing_and_misshapen_tensors_are_named(tmp_path: Path) -> None:
    tensors = tensors_of(CONFIG)
    del tensors["model.layers.0.mlp.up_proj.weight"]
    tensors["model.norm.weight"] = np.ones(15, np.float32)
    tensors["model.layers.0.self_attn.q_proj.weight"] = np.ones((16, 16), np.int32)
    with pytest.raises(CheckpointError, match=r"q_proj.weight is stored as I32.*up_proj.weight is missing.*\(15,\)"):
        Checkpoint(write(tmp_path / "m", tensors)).check()


def test_superfluous_tensors_are_left_aside_but_for_buffers(tmp_path: Path) -> None:
    """As transformers does, with a note; masks and frequencies of old files are known and need none."""
    tensors = tensors_of(CONFIG)
    known = {
        "model.layers.0.self_attn.rotary_emb.inv_freq": np.ones(4, np.float32),
        "lm_head.weight": tensors["model.embed_tokens.weight"],
    }
    assert Checkpoint(write(tmp_path / "known", tensors | known)).left_aside == []
    bias = {"model.layers.0.self_attn.q_proj.bias": np.ones(16, np.float32)}
    checkpoint = Checkpoint(write(tmp_path / "m", tensors | bias))
    checkpoint.check()
    assert checkpoint.left_aside == list(bias)


@pytest.mark.parametrize("keep", [0, 5, 8, 60, -1])
def test_truncated_file_is_said_to_be_truncated(tmp_path: Path, keep: int) -> None:
    folder = write(tmp_path / "m", tensors_of(CONFIG))
    data = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(data[:keep])
    with pytest.raises(CheckpointError, match="truncated"):
        Checkpoint(folder)


@pytest.mark.parametrize(
    "item",
    [
        {"dtype": "F32", "shape": [4], "data_offsets": [0, 15]},
        {"dtype": "F32", "shape": [-4], "data_offsets": [0, 16]},
        {"dtype": "F32", "shape": [4]},
        {"dtype": "F32", "shape": 4, "data_offsets": [0, 16]},
        [],
        "x",
    ],
)
def test_broken_header_is_refused(tmp_path: Path, item: object) -> None:
    folder = write(tmp_path / "m", tensors_of(CONFIG))
    header = json.dumps({"a": item}).encode()
    (folder / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes(64))
    with pytest.raises(CheckpointError, match="header"):
        Checkpoint(folder)


def test_folders_that_are_no_model(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"config.json"):
        Checkpoint(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match="not JSON"):
        Checkpoint(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    (tmp_path / "pytorch_model.bin").write_bytes(b"x")
    with pytest.raises(CheckpointError, match="never pickle"):
        Checkpoint(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "mamba"}, "'mamba' is not supported; supported: .*gpt2, .*llama, .*qwen2"),
        ({"model_type": None}, "not supported"),
        ({"rope_scaling": {"rope_type": "axial", "factor": 2.0}}, "'axial'.*default, linear, .*llama3"),
        ({"hidden_act": "snake"}, "'snake'.*gelu_new"),
        ({"use_sliding_window": True}, "sliding window"),
    ],
)
def test_unsupported_configs_are_named(change: dict[str, Any], message: str) -> None:
    config = {key: value for key, value in (CONFIG | change).items() if value is not None}
    with pytest.raises(UnsupportedError, match=message):
        spec_from_config(config)
