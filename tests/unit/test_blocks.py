"""Quantised blocks: the rule of Q8_0, what raw blocks stand for, and how a checkpoint hands them out."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
import pytest
from gguf.quants import dequantize, quantize
from safetensors.numpy import load_file, save_file

from eet_demo.engine.blocks import WeightFormat, dequantise, quantise_q8_0
from eet_demo.engine.checkpoint import Checkpoint
from eet_demo.engine.families import weights_of
from eet_demo.engine.weights import Weight
from eet_demo.errors import CheckpointError, EetError, UnsupportedError
from eet_demo.models.gguf.convert import convert
from eet_demo.models.gguf.header import read_header
from tests.gguf_files import random_model, write_gguf

KINDS = gguf.GGMLQuantizationType
CODES: dict[WeightFormat, KINDS] = {"q8_0": KINDS.Q8_0, "q4_0": KINDS.Q4_0, "q4_1": KINDS.Q4_1}


def test_q8_0_rounds_as_llama_cpp() -> None:
    rng = np.random.default_rng(0)
    values = (rng.normal(size=(7, 96)) * 10.0 ** rng.integers(-6, 4, (7, 96))).astype(np.float32)
    values[2, 32:64] = 0.0
    values[3, :32] = np.arange(-15.5, 16.5, dtype=np.float32) * 127 / 15.5 / 2  # halves
    below = np.nextafter(np.float32(0.5), np.float32(0))
    values[4, :32] = np.linspace(-127, 127, 32, dtype=np.float32)
    values[4, 1:6] = [0.5, -0.5, below, -below, 1.5]
    assert (quantise_q8_0(values) == quantize(values, KINDS.Q8_0)).all()
    many = rng.normal(size=(70, 1024)).astype(np.float32)
    assert (quantise_q8_0(many) == quantize(many, KINDS.Q8_0)).all()


@pytest.mark.parametrize("format", list(CODES))
def test_dequantise_is_gguf_s(format: WeightFormat) -> None:
    values = np.random.default_rng(1).normal(size=(5, 128)).astype(np.float32)
    raw = quantize(values, CODES[format])
    assert (dequantise(raw, format) == dequantize(raw, CODES[format])).all()


def folder_of(tmp_path: Path, kind: str, code: KINDS, **fields: object) -> Path:
    """A model folder with the .gguf it was converted from."""
    model = random_model(kind, **fields)
    folder = tmp_path / kind
    folder.mkdir()
    convert(write_gguf(folder / "model.gguf", model, code), folder)
    return folder


def values_of(checkpoint: Checkpoint, weight: Weight, raw: bool) -> list[np.ndarray]:
    parts = [np.full((part.rows, weight.columns), np.nan, np.float32) for part in weight.parts]
    if raw:
        for block in checkpoint.raw_blocks(weight):
            rows = dequantise(block.raw, checkpoint.formats[weight.name])
            parts[block.part][block.start : block.start + len(rows)] = rows
    else:
        for dense in checkpoint.blocks(weight):
            parts[dense.part][dense.start : dense.start + len(dense.values)] = dense.values
    return parts


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
@pytest.mark.parametrize("format", list(CODES))
def test_packed_weights_are_those_of_the_converted_folder(tmp_path: Path, kind: str, format: WeightFormat) -> None:
    """q and k rows in Hugging Face's order, GPT-2's matrices not transposed: the same numbers, bit for bit."""
    checkpoint = Checkpoint(folder_of(tmp_path, kind, CODES[format]), "packed")
    matrices = [weight for weight in weights_of(checkpoint.spec) if checkpoint.formats[weight.name] != "dense"]
    assert {checkpoint.formats[weight.name] for weight in matrices} == {format}
    assert len(matrices) == sum(w.is_matrix and w.name != "embed.positions" for w in weights_of(checkpoint.spec))
    for weight in matrices:
        for raw, dense in zip(
            values_of(checkpoint, weight, raw=True), values_of(checkpoint, weight, raw=False), strict=True
        ):
            assert np.array_equal(raw, dense), weight.name


def test_q8_0_of_any_folder_is_quantised_as_it_is_read(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, "llama", KINDS.F32)
    (folder / "model.gguf").unlink()
    checkpoint = Checkpoint(folder, "q8_0")
    weight = next(w for w in weights_of(checkpoint.spec) if w.is_matrix)
    (exact,) = values_of(Checkpoint(folder), weight, raw=False)
    (got,) = values_of(checkpoint, weight, raw=True)
    assert np.array_equal(got, dequantise(quantise_q8_0(exact), "q8_0"))


def test_what_cannot_be_packed_is_named(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, "llama", KINDS.F32)
    assert set(Checkpoint(folder, "packed").formats.values()) == {"dense"}
    (folder / "second.gguf").write_bytes((folder / "model.gguf").read_bytes())
    with pytest.raises(UnsupportedError, match="holds 2 of them"):
        _ = Checkpoint(folder, "packed").formats


def test_columns_that_fill_no_blocks_are_named(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, "llama", KINDS.F32, intermediate_size=176)
    with pytest.raises(UnsupportedError, match=r"down_proj.*176 columns.*32"):
        _ = Checkpoint(folder, "q8_0").formats


def test_nan_weights_are_named(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, "llama", KINDS.F32)
    tensors = load_file(folder / "model.safetensors")
    name = "model.layers.1.mlp.down_proj.weight"
    tensors[name] = tensors[name].copy()
    tensors[name][3, 5] = np.nan
    save_file(tensors, folder / "model.safetensors")
    for stored in ("dense", "q8_0"):
        checkpoint = Checkpoint(folder, stored)
        weight = next(w for w in weights_of(checkpoint.spec) if w.name == "layers.1.down.weight")
        blocks = checkpoint.blocks(weight) if stored == "dense" else checkpoint.raw_blocks(weight)
        with pytest.raises(CheckpointError, match=f"{name} holds NaN"):
            list(blocks)


def test_gguf_cut_anywhere_is_damage(tmp_path: Path) -> None:
    """Every cut is a CheckpointError and none another exception."""
    path = write_gguf(tmp_path / "whole.gguf", random_model("llama"), KINDS.Q4_1)
    whole = path.read_bytes()
    assert read_header(path).tensors
    cut = tmp_path / "cut.gguf"
    rng = np.random.default_rng(0)
    for size in [0, 3, 4, 8, 12, 23, 24, 25, *rng.integers(24, len(whole) - 1, 60), len(whole) - 64]:
        cut.write_bytes(whole[: int(size)])
        with pytest.raises(CheckpointError):
            read_header(cut)


def test_gguf_with_bytes_changed_never_crashes(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "whole.gguf", random_model("llama"), KINDS.Q4_1)
    whole = bytearray(path.read_bytes())
    rng = np.random.default_rng(1)
    for _ in range(100):
        damaged = bytearray(whole)
        for at in rng.integers(0, 4096, 3):
            damaged[int(at)] = int(rng.integers(256))
        path.write_bytes(damaged)
        try:
            read_header(path)
        except EetError:
            continue
