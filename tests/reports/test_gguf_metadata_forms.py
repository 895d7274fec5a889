"""Metadata in a form the format allows but the reader did not expect, called damage."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from eet_demo.errors import CheckpointError, UnsupportedError
from eet_demo.models.gguf.convert import convert
from eet_demo.models.gguf.header import read_header
from tests.gguf_files import Typed
from tests.reports.ggufs import config_of, converted, gguf_with, tiny_llama

K = gguf.GGUFValueType
WHOLE = (K.UINT8, K.INT8, K.UINT16, K.INT16, K.UINT32, K.INT32, K.UINT64, K.INT64, K.FLOAT32, K.FLOAT64)
COUNTS = {
    "llama.block_count": 2, "llama.context_length": 96, "llama.attention.head_count": 4,
    "llama.attention.head_count_kv": 2, "llama.attention.key_length": 16, "llama.rope.dimension_count": 16,
    "tokenizer.ggml.bos_token_id": 1, "tokenizer.ggml.eos_token_id": 2,
}  # fmt: skip


@pytest.fixture(scope="module")
def usual(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return config_of(tmp_path_factory.mktemp("usual"))


@pytest.mark.parametrize("kind", WHOLE)
def test_whole_numbers_of_any_width(tmp_path: Path, kind: gguf.GGUFValueType, usual: dict[str, Any]) -> None:
    assert config_of(tmp_path, **{key: Typed(value, kind) for key, value in COUNTS.items()}) == usual


@pytest.mark.parametrize("key", ["llama.attention.head_count", "llama.attention.head_count_kv", "llama.block_count"])
@pytest.mark.parametrize("each", [K.UINT32, K.INT32, K.UINT64])
def test_a_list_with_one_value_for_every_layer(
    tmp_path: Path, key: str, each: gguf.GGUFValueType, usual: dict[str, Any]
) -> None:
    assert config_of(tmp_path, **{key: Typed([COUNTS[key]] * 2, K.ARRAY, each)}) == usual


def test_layers_that_differ_are_named(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match=r"layers that differ \(llama\.attention\.head_count_kv = \[2, 4\]"):
        config_of(tmp_path, **{"llama.attention.head_count_kv": [2, 4]})


@pytest.mark.parametrize("kind", [K.FLOAT32, K.FLOAT64])
def test_numbers_of_either_precision(tmp_path: Path, kind: gguf.GGUFValueType) -> None:
    given = {"llama.rope.freq_base": Typed(5e5, kind), "llama.attention.layer_norm_rms_epsilon": Typed(1e-5, kind)}
    config = config_of(tmp_path, **given)
    assert (config["rope_theta"], config["rms_norm_eps"]) == (5e5, 1e-5)


def test_a_whole_number_where_a_fraction_could_be(tmp_path: Path) -> None:
    assert config_of(tmp_path, **{"llama.rope.freq_base": 500000})["rope_theta"] == 5e5


@pytest.mark.parametrize("each", [K.UINT8, K.INT8, K.UINT16, K.INT64, K.INT32])
def test_token_types_of_any_width(tmp_path: Path, each: gguf.GGUFValueType) -> None:
    types = [3] * 3 + [1] * 328
    made = converted(tmp_path, **{"tokenizer.ggml.token_type": Typed(types, K.ARRAY, each)})
    assert '"id":2,' in (made / "tokenizer.json").read_text()


@pytest.mark.parametrize("kind", [K.UINT8, K.BOOL, K.INT32])
@pytest.mark.parametrize("value", [0, 1])
def test_a_flag_as_a_number(tmp_path: Path, kind: gguf.GGUFValueType, value: int) -> None:
    made = converted(tmp_path, **{"tokenizer.ggml.add_bos_token": Typed(value, kind)})
    assert ('"post_processor":null' in (made / "tokenizer.json").read_text()) == (value == 0)


@pytest.mark.parametrize(("key", "value"), [
    ("llama.block_count", 2.5), ("llama.block_count", "2"), ("llama.block_count", True),
    ("llama.context_length", Typed(-96, K.INT32)), ("llama.rope.freq_base", "10000"),
    ("tokenizer.ggml.add_bos_token", "false"), ("tokenizer.ggml.eos_token_id", "2"),
])  # fmt: skip
def test_another_kind_of_value_is_named(tmp_path: Path, key: str, value: Any) -> None:
    with pytest.raises(CheckpointError, match=f"{key} is .* which is not"):
        config_of(tmp_path, **{key: value})


@pytest.mark.parametrize("kind", [K.UINT32, K.UINT64, K.INT32])
@pytest.mark.parametrize("alignment", [8, 32, 64])
def test_alignment_of_any_width(
    tmp_path: Path, kind: gguf.GGUFValueType, alignment: int, usual: dict[str, Any]
) -> None:
    path = gguf_with(tmp_path)
    writer_aligned = realigned(path, Typed(alignment, kind), alignment)
    made = tmp_path / "made"
    made.mkdir()
    convert(writer_aligned, made)
    head = tiny_llama().state_dict()["model.norm.weight"].numpy()
    assert head.tobytes() in (made / "model.safetensors").read_bytes()


def realigned(path: Path, typed: Typed, alignment: int) -> Path:
    """The file with its alignment said and kept."""
    reader = gguf.GGUFReader(path)
    target = path.with_name("aligned.gguf")
    writer = gguf.GGUFWriter(target, "llama")
    writer.data_alignment = alignment
    writer.add_key_value("general.alignment", *typed)
    for field in reader.fields.values():
        if not field.name.startswith(("GGUF.", "general.architecture")):
            writer.add_key_value(field.name, field.contents(), field.types[0])
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, np.array(tensor.data))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return target


def with_pair(path: Path, key: str, value: bytes) -> Path:
    """The file with one metadata pair more, `value` being its type and bytes; kept aligned by a filler."""
    raw = path.read_bytes()
    pairs = int.from_bytes(raw[16:24], "little")
    added = struct.pack("<Q", len(key)) + key.encode() + value
    filler = (-(len(added) + 13 + 8)) % 32
    added += struct.pack("<Q", 8 + 5) + b"note.filling!" + struct.pack("<IQ", 8, filler)[:12] + b" " * filler
    extra = -len(added) % 32
    added = added[: len(added) - filler - 8] + struct.pack("<Q", filler + extra) + b" " * (filler + extra)
    path.write_bytes(raw[:16] + (pairs + 2).to_bytes(8, "little") + raw[24:24] + added + raw[24:])
    return path


@pytest.mark.parametrize("value", [
    struct.pack("<IIQ", 9, 4, 0),  # an empty list of numbers
    struct.pack("<IIQ", 9, 8, 0),  # of texts
    struct.pack("<IIQ", 9, 9, 1) + struct.pack("<IQII", 4, 2, 7, 8),  # a list of lists
    struct.pack("<IIQ", 9, 9, 1) + struct.pack("<IQQ", 8, 1, 2) + b"ab",  # of texts
    struct.pack("<IIQ", 9, 7, 2) + b"\1\0",  # of flags
    struct.pack("<Id", 12, 0.5),
    struct.pack("<Iq", 11, -5),
], ids=range(7))  # fmt: skip
def test_a_note_in_any_form(tmp_path: Path, value: bytes, usual: dict[str, Any]) -> None:
    path = with_pair(gguf_with(tmp_path), "note.odd", value)
    (tmp_path / "made").mkdir()
    convert(path, tmp_path / "made")
    assert read_header(path, arrays=False).tensors == read_header(path).tensors


@pytest.mark.parametrize(("version", "words"), [(1, "version 1"), (4, "version 4"), (3 << 24, "big-endian")])
def test_another_version_is_no_damage(tmp_path: Path, version: int, words: str) -> None:
    path = gguf_with(tmp_path)
    raw = path.read_bytes()
    path.write_bytes(raw[:4] + struct.pack("<I", version) + raw[8:])
    with pytest.raises(UnsupportedError, match=words):
        read_header(path)


def test_a_type_of_values_that_is_not_known_is_no_damage(tmp_path: Path) -> None:
    path = gguf_with(tmp_path)
    raw = bytearray(path.read_bytes())
    at = raw.index(b"output_norm.weight") + len(b"output_norm.weight") + 4 + 8
    raw[at : at + 4] = struct.pack("<I", 99)
    path.write_bytes(raw)
    with pytest.raises(UnsupportedError, match=r"output_norm\.weight as type 99"):
        convert(path, tmp_path)


def test_values_in_float64(tmp_path: Path) -> None:
    path = gguf_with(tmp_path)
    raw = bytearray(path.read_bytes())
    norm = tiny_llama().state_dict()["model.norm.weight"].numpy()
    at = raw.index(b"output_norm.weight") + len(b"output_norm.weight") + 4 + 8
    start = read_header(path).tensors["output_norm.weight"].offset - int.from_bytes(raw[at + 4 : at + 12], "little")
    raw += b"\0" * (-len(raw) % 32)
    raw[at : at + 12] = struct.pack("<IQ", 28, len(raw) - start)
    path.write_bytes(bytes(raw) + norm.astype(np.float64).tobytes())
    (tmp_path / "made").mkdir()
    convert(path, tmp_path / "made")
    assert norm.tobytes() in (tmp_path / "made" / "model.safetensors").read_bytes()
