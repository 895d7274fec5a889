"""attention_decode.cu against the reference: ratios of heads, ragged lengths, both partitions, poison, all modes."""

from __future__ import annotations

import mmap
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch

from eet_demo.engine.executors.cuda.arrays import DeviceArray, DType
from eet_demo.engine.executors.cuda.launchers.attention_decode import (
    TILE,
    Partition,
    attention_decode,
    choose_splits,
    head_tiling,
    instance,
    partials_size,
)
from eet_demo.engine.executors.reference import kernels as reference
from eet_demo.errors import UnsupportedError
from tests.kernels.harness import (
    ALL_MODES,
    DTYPES,
    ORDERS,
    assert_as_close_as_torch,
    assert_equal,
    assert_float32_close,
    launcher,
    rng,
    rounded,
)

RAGGED = (1, 64, 5, 200, 65, 199, 128)
"""Lengths around the tile of 64 slots, one slot, and a cache of 200 filled to its last slot."""


@dataclass(frozen=True)
class Case:
    num_heads: int = 9
    num_kv_heads: int = 3
    head_dim: int = 64
    lengths: tuple[int, ...] = RAGGED
    max_context: int = 200
    partition: Partition = "split"
    blocks: int = 3
    window: int | None = None
    soft_cap: float | None = None
    alibi: bool = False
    tile: int = TILE
    sharp: float = 1.0
    """Factor on q: large ones make the running maximum matter."""


def inputs(case: Case) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray | None]:
    """q, keys, values and slopes; what no row may read is NaN: other cache rows, and slots past a row's own."""
    random, rows = rng(case.num_heads, case.head_dim, sum(case.lengths)), len(case.lengths)
    q = random.standard_normal((rows, case.num_heads, case.head_dim)).astype(np.float32) * case.sharp
    cache = np.full((2, rows + 2, case.num_kv_heads, case.max_context, case.head_dim), np.nan, np.float32)
    for row, length in enumerate(case.lengths):
        visible = slice(max(0, length - (case.window or length)), length)
        shape = cache[:, 0, :, visible].shape
        cache[:, cache_row(row, rows), :, visible] = random.standard_normal(shape)
    slopes = 2.0 ** -np.linspace(0.5, 6, case.num_heads).astype(np.float32) if case.alibi else None
    return q, cache[0], cache[1], slopes


def cache_row(row: int, rows: int) -> int:
    """Cache rows in another order than the rows', none of them 0."""
    return rows - row


def run(mode: str, case: Case, dtype: DType) -> np.ndarray:
    """The kernel's output, (rows, num_heads * head_dim), after checking that its counters are zero again."""
    device, rows = launcher(mode), len(case.lengths)
    q, keys, values, slopes = inputs(case)
    tiling = head_tiling(case.num_heads, case.num_kv_heads)
    counters = device.upload(np.zeros(rows * tiling.pairs, np.uint32), "uint32")
    out = device.empty((rows, case.num_heads * case.head_dim), dtype)
    size = partials_size(case.partition, case.blocks, rows, tiling, case.head_dim)
    attention_decode(
        device, device.upload(q, dtype), device.upload(keys, dtype), device.upload(values, dtype),
        device.upload(np.array(case.lengths) - 1, "int32"),
        device.upload(np.array([cache_row(row, rows) for row in range(rows)]), "int32"),
        dtype=dtype, out=out, partials=device.empty((size,), "float32"), counters=counters, blocks=case.blocks,
        scale=case.head_dim**-0.5, partition=case.partition, window=case.window, soft_cap=case.soft_cap,
        slopes=None if slopes is None else device.upload(slopes, "float32"), tile=case.tile,
    )  # fmt: skip
    assert not device.download(counters).any(), f"{mode} {case}: counters are not zero again"
    return device.download(out)


def expected(case: Case, dtype: DType) -> np.ndarray:
    """The reference in float64 on the rounded inputs."""
    q, keys, values, slopes = inputs(case)
    outputs = []
    for row, length in enumerate(case.lengths):
        at = cache_row(row, len(case.lengths))
        first = max(0, length - (case.window or length))
        k, v = (rounded(part[at, :, first:length], dtype).astype(np.float64) for part in (keys, values))
        scale = float(np.float32(case.head_dim**-0.5))
        outputs.append(
            reference.attention(
                rounded(q[row : row + 1], dtype).astype(np.float64), k, v, np.array([length - 1 - first]), scale,
                case.window, case.soft_cap, slopes,
            )
        )  # fmt: skip
    return np.concatenate(outputs)


def torch_result(case: Case, dtype: DType) -> np.ndarray:
    """Attention as Hugging Face's eager code does it, in `dtype` on the CPU: softmax in float32, the rest rounded."""
    q, keys, values, slopes = inputs(case)
    kind = {"float16": torch.float16, "bfloat16": torch.bfloat16}[dtype]
    group, outputs = case.num_heads // case.num_kv_heads, []
    for row, length in enumerate(case.lengths):
        at, first = cache_row(row, len(case.lengths)), max(0, length - (case.window or length))
        k, v = (torch.tensor(part[at, :, first:length]).to(kind).repeat_interleave(group, 0) for part in (keys, values))
        scores = (torch.tensor(q[row]).to(kind)[:, None] @ k.transpose(1, 2)) * case.head_dim**-0.5
        if case.soft_cap is not None:
            scores = torch.tanh(scores / case.soft_cap) * case.soft_cap
        if slopes is not None:
            distances = length - 1 - torch.arange(first, length)
            scores = scores - (torch.tensor(slopes)[:, None, None] * distances).to(kind)
        weights = torch.softmax(scores, dim=-1, dtype=torch.float32).to(kind)
        outputs.append((weights @ v).reshape(-1).float().numpy())
    return np.stack(outputs)


def check(mode: str, case: Case, dtype: DType) -> None:
    actual, wanted = run(mode, case, dtype), expected(case, dtype)
    if dtype == "float32":
        assert_float32_close(actual, wanted, f"{mode} {case}", tolerance=3e-6 * case.sharp)
    else:
        assert_as_close_as_torch(actual, wanted, torch_result(case, dtype), f"{mode} {dtype} {case}")


SHAPES = [(9, 3, 64), (4, 2, 80), (8, 2, 96), (7, 1, 128), (12, 1, 32), (3, 1, 256), (2, 2, 8), (11, 1, 248)]
"""Query heads, KV heads, head_dim: 1, 2, 3, 4, 7, 11 and 12 query heads a KV head, the last two in two tiles."""


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("partition", ["split", "stream"])
def test_attention_decode_every_shape(shape: tuple[int, int, int], partition: Partition) -> None:
    dtype = DTYPES[(SHAPES.index(shape) + (partition == "split")) % len(DTYPES)]
    case = Case(*shape, partition=partition, blocks=3 if partition == "split" else 13)
    check("plain", case, dtype)


@pytest.mark.parametrize("mode", ORDERS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("partition", ["split", "stream"])
@pytest.mark.parametrize("lengths", [(200,), (1, 2, 3), tuple(range(1, 200, 13))], ids=["1 row", "3 rows", "16 rows"])
def test_attention_decode_batches(mode: str, dtype: DType, partition: Partition, lengths: tuple[int, ...]) -> None:
    check(mode, Case(lengths=lengths, partition=partition, blocks=4), dtype)


@pytest.mark.parametrize("blocks", [1, 2, 5, 64, 500])
@pytest.mark.parametrize("partition", ["split", "stream"])
def test_attention_decode_any_number_of_blocks(partition: Partition, blocks: int) -> None:
    """From one block to more blocks than there are tiles; with tiles of 16 slots a row has up to 13 pieces."""
    check("plain", Case(partition=partition, blocks=blocks, tile=16), "float32")


def test_attention_decode_split_and_stream_agree_with_one_block() -> None:
    """One block a row and pair never uses the scratch: the bits may differ from split runs, by rounding alone."""
    alone = run("plain", Case(blocks=1), "float32")
    cases: tuple[tuple[Partition, int], ...] = ("split", 7), ("stream", 7), ("stream", 41)
    for partition, blocks in cases:
        actual = run("plain", Case(partition=partition, blocks=blocks), "float32")
        assert_float32_close(actual, alone, f"{partition} {blocks}", tolerance=1e-6)


@pytest.mark.parametrize("partition", ["split", "stream"])
def test_attention_decode_does_not_depend_on_the_order_of_blocks(partition: Partition) -> None:
    case = Case(partition=partition, blocks=9)
    assert_equal(run("shuffled", case, "float32"), run("reversed", case, "float32"), partition)


OPTIONS: dict[str, dict[str, Any]] = {
    "window": {"window": 70},
    "window of one slot": {"window": 1},
    "window, soft cap and ALiBi": {"window": 130, "soft_cap": 1.5, "alibi": True},
    "soft cap": {"soft_cap": 0.8},
    "ALiBi": {"alibi": True},
    "sharp": {"sharp": 30.0},
}


@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize("partition", ["split", "stream"])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_attention_decode_options(name: str, partition: Partition, dtype: DType) -> None:
    check("plain", replace(Case(partition=partition), **OPTIONS[name]), dtype)


TILE_SHAPES = [(4, 1, 64), (7, 1, 128), (12, 1, 32), (5, 1, 8), (16, 2, 72), (11, 1, 248), (8, 1, 256), (5, 1, 136)]
"""Groups that tensor cores multiply; the last three take two warps a team, and most pad a head to whole tiles."""


@pytest.mark.parametrize("options", [{}, {"soft_cap": 2.0, "alibi": True, "window": 70, "sharp": 4.0}], ids=["", "all"])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("shape", TILE_SHAPES, ids=str)
def test_attention_decode_on_tensor_cores(shape: tuple[int, int, int], dtype: DType, options: dict[str, Any]) -> None:
    partition: Partition = "stream" if TILE_SHAPES.index(shape) % 2 else "split"
    check("shuffled", Case(*shape, partition=partition, blocks=5, **options), dtype)


@pytest.mark.parametrize("shape", [(3, 1, 64), (4, 1, 64), (8, 1, 136)], ids=str)
@pytest.mark.parametrize("partition", ["split", "stream"])
def test_attention_decode_merges_more_parts_than_a_warp(shape: tuple[int, int, int], partition: Partition) -> None:
    check("plain", Case(*shape, lengths=(200, 7), partition=partition, blocks=45, tile=4), "float16")


@pytest.mark.parametrize("mode", ALL_MODES)
@pytest.mark.parametrize("shape", [(4, 1, 64), (5, 1, 136)], ids=str)
def test_attention_decode_on_tensor_cores_is_clean(mode: str, shape: tuple[int, int, int]) -> None:
    check(mode, Case(*shape, lengths=(1, 200, 65), blocks=3), "float16")
    check(mode, Case(*shape, lengths=(150, 9), partition="stream", blocks=2), "bfloat16")


@pytest.mark.parametrize("mode", ALL_MODES)
@pytest.mark.parametrize("partition", ["split", "stream"])
def test_attention_decode_is_clean_in_every_mode(mode: str, partition: Partition) -> None:
    """The two blocks of `stream` have whole rows and parts of rows to do, one after the other."""
    blocks = 5 if partition == "split" else 2
    case = Case(3, 1, 64, (1, 200, 65), partition=partition, blocks=blocks, soft_cap=2.0, alibi=True, window=190)
    check(mode, case, "float16")


def test_attention_decode_accumulates_long_rows_in_float32() -> None:
    """Over 3,000 slots in one block, sums in half precision lose several times what torch's rounding does."""
    check("plain", Case(3, 1, 64, (3000,), max_context=3000, blocks=1), "float16")


def test_attention_decode_reads_a_context_of_131072() -> None:
    case = Case(2, 2, 8, (131072,), max_context=131072, blocks=20)
    check("plain", case, "float32")


def test_attention_decode_offsets_are_64_bits_wide() -> None:
    """A cache of more than 2^31 values, of which only what a row sees is ever touched, and so ever backed by memory."""
    device, shape = launcher("plain"), (140, 1, 131072, 128)
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x4000  # MAP_NORESERVE, which the module names from 3.13 on
    memory = np.frombuffer(mmap.mmap(-1, int(np.prod(shape)) * 2, flags=flags), np.float16)
    rows = rng(1).standard_normal((70, 128)).astype(np.float16)
    memory.reshape(shape)[139, 0, :70] = rows
    cache = DeviceArray(memory.ctypes.data, shape, "float16", memory)
    q = rng(2).standard_normal((1, 7, 128)).astype(np.float16)
    out, tiling = device.empty((1, 7 * 128), "float16"), head_tiling(7, 1)
    attention_decode(
        device, device.upload(q, "float16"), cache, cache, device.upload(np.array([69]), "int32"),
        device.upload(np.array([139]), "int32"), dtype="float16", out=out, scale=0.1, blocks=2,
        partials=device.empty((partials_size("split", 2, 1, tiling, 128),), "float32"),
        counters=device.upload(np.zeros(1), "uint32"),
    )  # fmt: skip
    wide = rows.astype(np.float64)[None]
    wanted = reference.attention(q.astype(np.float64), wide, wide, np.array([69]), float(np.float32(0.1)))
    assert np.abs(device.download(out) - wanted).max() < 2e-3


def test_attention_decode_names_what_it_lacks() -> None:
    for head_dim in (111, 264):
        with pytest.raises(UnsupportedError, match="multiple of 8"):
            instance("float32", head_dim, 1, False, "split")
    with pytest.raises(UnsupportedError, match="whole number"):
        head_tiling(9, 2)
    with pytest.raises(UnsupportedError, match="window"):
        run("plain", Case(window=-1), "float32")


def test_splits_cover_the_processors_but_keep_tiles_whole() -> None:
    assert choose_splits(1, 3, 8192, 132) == 32
    assert choose_splits(1, 3, 256, 132) == 4
    assert choose_splits(16, 32, 8192, 132) == 1
