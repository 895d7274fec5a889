"""Broken model files of every kind: only this project's errors come out, soon, and with little memory taken.

Every example is a small valid model with a few places changed, so that the damage reaches past the first check.
"""

from __future__ import annotations

import json
import struct
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from eet_demo.engine.checkpoint import Checkpoint
from eet_demo.engine.engine import Engine
from eet_demo.engine.families import weights_of
from eet_demo.errors import EetError
from eet_demo.models.gguf.convert import convert
from eet_demo.models.gguf.header import read_header
from eet_demo.race.inputs import open_model
from eet_demo.sides.side import SideOptions
from eet_demo.sides.stock_bytes import stock_bytes
from tests.gguf_files import random_model, write_gguf
from tests.parity.checkpoints import VARIANTS, make_checkpoint

pytestmark = pytest.mark.slow

MOST_BYTES = 48 << 20
"""More than any of these files, its conversion and a check of it need; far less than what a broken count asks for."""

MOST_SECONDS = 5.0
"""Of this process's own time: a busy machine is nobody's fault."""

FUZZ = settings(
    max_examples=120,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


def tried(work: Callable[[], object], what: object) -> None:
    """Runs `work`; an EetError is the right answer, and so is none. Anything else fails the test, naming the change."""
    tracemalloc.start()
    begin_s = time.process_time()
    try:
        work()
    except EetError:
        pass
    except Exception as error:
        raise AssertionError(f"{type(error).__name__} for {what!r}: {error}") from error
    finally:
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert peak < MOST_BYTES, f"{peak:,} bytes were taken for {what!r}"
    assert time.process_time() - begin_s < MOST_SECONDS, f"too long for {what!r}"


def read_all(folder: Path, weights: str = "dense") -> None:
    """Everything an engine reads of a folder."""
    checkpoint = Checkpoint(folder, weights)
    checkpoint.check()
    for weight in weights_of(checkpoint.spec):
        blocks = checkpoint.blocks if checkpoint.formats[weight.name] == "dense" else checkpoint.raw_blocks
        for _ in blocks(weight):
            pass


ODD: st.SearchStrategy[Any] = st.one_of(
    st.sampled_from(
        [None, True, False, -1, 0, 1, 2, 3, 7, 2**31, 2**63, 2**64, 10**30, 0.5, -0.0, 1e300, float("inf"),
         float("nan"), "", "x", "F32", "BF16", "llama3", "../../etc", [], {}, [0], [1, 2, 3], [[[]]], [0, 2**62],
         {"a": 1}, ["x"], [None], [-4, 4], [2**40, 2**40], "\ud800"]
    ),
    st.integers(),
    st.floats(),
    st.text(max_size=6),
)  # fmt: skip


@pytest.fixture(scope="module", params=["llama", "gpt2"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("fuzz") / request.param
    make_checkpoint(made, request.param)
    read_all(made)
    return made


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The path of every value inside a JSON value, containers too."""
    found = [path] if path else []
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return found + [inner for key, each in items for inner in places(each, (*path, key))]


def changed(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    """A copy with the value at `path` replaced."""
    if not path:
        return new
    copy = value.copy()
    copy[path[0]] = changed(copy[path[0]], path[1:], new)
    return copy


def mutate(data: st.DataObject, value: Any, most: int = 3) -> tuple[Any, list[Any]]:
    """A JSON value with one to `most` places replaced by something odd, and what was replaced."""
    told = []
    for _ in range(data.draw(st.integers(1, most))):
        where = data.draw(st.sampled_from(places(value) or [()]))
        new = data.draw(ODD)
        told.append((where, new))
        value = changed(value, where, new)
        if not isinstance(value, dict | list):
            break
    return value, told


def bytes_changed(data: st.DataObject, whole: bytes, reach: int) -> tuple[bytes, list[Any]]:
    """Bytes of the first `reach` replaced, runs of them cut out or repeated, or the end cut off."""
    raw, told = bytearray(whole), []
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, max(0, min(reach, len(raw)) - 1)))
        what = data.draw(st.sampled_from(["byte", "number", "cut", "repeat", "end"]))
        told.append((what, at))
        if what == "byte":
            raw[at : at + 1] = bytes([data.draw(st.integers(0, 255))])
        elif what == "number":
            raw[at : at + 8] = struct.pack("<Q", data.draw(st.sampled_from([0, 1, 2**31 - 1, 2**32, 2**60, 2**64 - 1])))
        elif what == "cut":
            del raw[at : at + data.draw(st.integers(1, 40))]
        elif what == "repeat":
            raw[at:at] = raw[at : at + data.draw(st.integers(1, 40))]
        else:
            del raw[at:]
            break
    return bytes(raw), told


class Restored:
    """A file of a folder that is put back after each example."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.whole = path.read_bytes()

    def __enter__(self) -> Restored:
        return self

    def __exit__(self, *exception: object) -> None:
        self.path.write_bytes(self.whole)


@FUZZ
@given(data=st.data())
def test_safetensors_with_bytes_changed(folder: Path, data: st.DataObject) -> None:
    with Restored(folder / "model.safetensors") as file:
        reach = 8 + int.from_bytes(file.whole[:8], "little")
        raw, told = bytes_changed(data, file.whole, reach)
        file.path.write_bytes(raw)
        tried(lambda: read_all(folder), told)


@FUZZ
@given(data=st.data())
def test_safetensors_with_a_header_that_says_other_things(folder: Path, data: st.DataObject) -> None:
    with Restored(folder / "model.safetensors") as file:
        length = int.from_bytes(file.whole[:8], "little")
        header, told = mutate(data, json.loads(file.whole[8 : 8 + length]))
        raw = json.dumps(header).encode()
        file.path.write_bytes(struct.pack("<Q", len(raw)) + raw + file.whole[8 + length :])
        tried(lambda: read_all(folder), told)
        options = SideOptions("stock", str(folder), "cpu", "float32", "dense", 1, 1, 32)
        tried(lambda: stock_bytes(options), told)


@FUZZ
@given(data=st.data())
def test_index_of_several_files_that_says_other_things(folder: Path, data: st.DataObject) -> None:
    index = folder / "model.safetensors.index.json"
    part, single = folder / "part.safetensors", folder / "model.safetensors"
    whole = {"metadata": {"total_size": 1}, "weight_map": {"a": part.name, "b": part.name}}
    value, told = mutate(data, whole)
    index.write_text(json.dumps(value))
    single.rename(part)
    try:
        tried(lambda: read_all(folder), told)
    finally:
        part.rename(single)
        index.unlink()


@FUZZ
@given(data=st.data())
def test_config_that_says_other_things(folder: Path, data: st.DataObject) -> None:
    with Restored(folder / "config.json") as file:
        config, told = mutate(data, json.loads(file.whole))
        file.path.write_text(json.dumps(config))
        tried_config(folder, told)


@FUZZ
@given(data=st.data())
def test_config_with_bytes_changed(folder: Path, data: st.DataObject) -> None:
    with Restored(folder / "config.json") as file:
        raw, told = bytes_changed(data, file.whole, len(file.whole))
        file.path.write_bytes(raw)
        tried_config(folder, told)


def tried_config(folder: Path, told: object) -> None:
    """All that reads a config: the race, the estimate of stock, the engine's plan, the checkpoint."""
    tried(lambda: open_model(folder), told)
    options = SideOptions("stock", str(folder), "cpu", "float32", "dense", 1, 1, 32)
    tried(lambda: stock_bytes(options), told)
    tried(lambda: Engine.plan(folder, device="reference", max_batch=1, max_context=32), told)
    tried(lambda: read_all(folder), told)


@pytest.fixture(scope="module")
def family_folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One folder a family, without weights: its config alone is read."""
    found: dict[str, Path] = {}
    for variant, (kind, _) in VARIANTS.items():
        if kind not in found:
            found[kind] = tmp_path_factory.mktemp("families") / kind
            make_checkpoint(found[kind], variant)
    return found


@settings(FUZZ, max_examples=400)
@given(data=st.data())
def test_config_of_every_family_that_says_other_things(family_folders: dict[str, Path], data: st.DataObject) -> None:
    folder = family_folders[data.draw(st.sampled_from(sorted(family_folders)))]
    with Restored(folder / "config.json") as file:
        config, told = mutate(data, json.loads(file.whole))
        file.path.write_text(json.dumps(config))
        tried(lambda: Engine.plan(folder, device="reference", max_batch=1, max_context=32), (folder.name, told))


@pytest.fixture(scope="module")
def gguf_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("gguf") / "model.gguf"
    write_gguf(path, random_model("llama", num_hidden_layers=1), gguf.GGMLQuantizationType.Q4_1)
    return path


@FUZZ
@given(data=st.data())
def test_gguf_with_bytes_changed(gguf_file: Path, tmp_path: Path, data: st.DataObject) -> None:
    with Restored(gguf_file) as file:
        places_of_interest = [24, 600, len(file.whole) // 2, len(file.whole)]
        raw, told = bytes_changed(data, file.whole, data.draw(st.sampled_from(places_of_interest)))
        file.path.write_bytes(raw)
        tried(lambda: read_header(gguf_file), told)
        tried(lambda: convert(gguf_file, tmp_path), told)


@pytest.fixture(scope="module")
def packed_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("packed")
    source = write_gguf(made / "model.gguf", random_model("llama", num_hidden_layers=1), gguf.GGMLQuantizationType.Q8_0)
    convert(source, made)
    read_all(made, "packed")
    return made


@FUZZ
@given(data=st.data())
def test_packed_weights_with_bytes_changed(packed_folder: Path, data: st.DataObject) -> None:
    with Restored(packed_folder / "model.gguf") as file:
        end = file.whole.rindex(b"output_norm.weight") + 64
        raw, told = bytes_changed(data, file.whole, data.draw(st.sampled_from([24, end, len(file.whole)])))
        file.path.write_bytes(raw)
        tried(lambda: read_all(packed_folder, "packed"), told)
