"""The wrappers of common.cuh against NumPy, in every mode: kernels rest on these."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import pytest

from eet_demo.engine.executors.cuda.arrays import DType, from_host, to_host
from eet_demo.engine.executors.cuda.compile.launch import Argument, Instance, LaunchConfig, Launcher
from eet_demo.engine.executors.cuda.launchers.matrices import FORMAT_CODE, WeightFormat, dequantise_planes
from tests.kernels.harness import assert_equal, assert_float32_close, make_matrix, rng, rounded, simulator

FOLDER = Path(__file__).parent / "simulator"
MODES = ["plain", "reversed", "shuffled", "address", "race", pytest.param("gpu", marks=pytest.mark.gpu)]


@cache
def device_of(mode: str) -> Launcher:
    if mode == "gpu":
        from eet_demo.engine.executors.cuda.compile.cupy_launcher import CupyLauncher
        from eet_demo.errors import UnsupportedError

        try:
            return CupyLauncher(folder=FOLDER)
        except UnsupportedError as error:
            pytest.skip(str(error))
    return simulator(mode, {"plain": 0, "reversed": 1, "shuffled": 77}.get(mode, 5), FOLDER)


def launch(
    device: Launcher, kernel: str, arguments: tuple[Argument, ...], template: tuple[str | int, ...] = (),
    threads: int = 32, blocks: int = 1, cooperative: bool = False,
) -> None:  # fmt: skip
    config = LaunchConfig(threads, (blocks, 1, 1), cooperative=cooperative)
    device.launch(Instance("sound", template, kernel), config, arguments)


@pytest.mark.parametrize("mode", MODES)
def test_warp_operations(mode: str) -> None:
    device, x = device_of(mode), rng(1).standard_normal(32).astype(np.float32)
    out = device.empty((13, 32), "float32")
    launch(device, "warp_operations", (device.upload(x, "float32"), out))
    lane = np.arange(32)
    expected = [
        np.full(32, x[5]), x[lane // 8 * 8 + 3], x[lane ^ 9], x[np.where(lane >= 3, lane - 3, lane)],
        x[np.where(lane % 8 >= 2, lane - 2, lane)], x[np.where(lane + 3 < 32, lane + 3, lane)],
        x[np.where(lane % 8 + 2 < 8, lane + 2, lane)], np.full(32, (x > 0).sum()), np.ones(32), np.zeros(32),
        None, x.reshape(4, 8).max(axis=1).repeat(8), x + x[np.where(lane < 16, lane ^ 8, lane ^ 4)],
    ]  # fmt: skip
    actual = device.download(out)
    for row, values in enumerate(expected):
        if values is not None:
            assert_equal(actual[row], values.astype(np.float32), f"{mode} row {row}")
    assert_float32_close(actual[10], np.full(32, x.astype(np.float64).sum()), f"{mode} warp_sum", tolerance=1e-6)
    assert len(set(actual[10])) == 1


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("threads", [32, 96, 1024])
def test_block_operations(mode: str, threads: int) -> None:
    threads = min(threads, 256) if mode == "race" else threads
    device, x = device_of(mode), rng(threads).standard_normal(threads).astype(np.float32)
    out = device.empty((5, threads), "float32")
    launch(device, "block_operations", (device.upload(x, "float32"), out), (threads,), threads)
    actual = device.download(out)
    assert_float32_close(actual[0], np.full(threads, x.astype(np.float64).sum()), f"{mode} block_sum")
    assert_equal(actual[1], np.full(threads, threads, np.float32), f"{mode} second block_sum")
    assert_equal(actual[2], np.full(threads, x.max()), f"{mode} block_max")
    assert_equal(actual[3], np.full(threads, x.min()), f"{mode} second block_max")
    assert_equal(actual[4], np.full(threads, (x > 0).sum(), np.float32), f"{mode} count")


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_tensor_core_tile(mode: str, dtype: DType) -> None:
    device, random = device_of(mode), rng(16)
    a, b, c = random.standard_normal((16, 16)), random.standard_normal((8, 16)), random.standard_normal((16, 8))
    d, d_transposed = device.empty((16, 8), "float32"), device.empty((16, 8), "float32")
    inputs = [device.upload(np.ascontiguousarray(m), dtype) for m in (a, b, b.T)]
    launch(device, "tile_product", (*inputs, device.upload(c, "float32"), d, d_transposed), (dtype,))
    expected = rounded(a, dtype).astype(np.float64) @ rounded(b, dtype).T + c.astype(np.float32)
    assert_float32_close(device.download(d), expected, f"{mode} {dtype}", tolerance=1e-6)
    assert_float32_close(device.download(d_transposed), expected, f"{mode} {dtype} transposed", tolerance=1e-6)


@pytest.mark.parametrize("mode", MODES)
def test_zero_filling_copy_reads_nothing_when_invalid(mode: str) -> None:
    device, x = device_of(mode), rng(2).standard_normal(40).astype(np.float32)
    out = device.empty((128,), "float32")
    launch(device, "zero_fill", (device.upload(x, "float32"), out, np.int32(10)))
    assert_equal(device.download(out), np.concatenate([x, np.zeros(88, np.float32)]), mode)


@pytest.mark.parametrize("mode", MODES)
def test_last_block_sees_all_others(mode: str) -> None:
    device, x = device_of(mode), rng(3).standard_normal((6, 32)).astype(np.float32)
    counter = device.upload(np.zeros(1, np.uint32), "uint32")
    for _ in range(2):
        partial, sums = device.empty((6, 32), "float32"), device.empty((32,), "float32")
        launch(device, "last_block_sums", (device.upload(x, "float32"), partial, counter, sums), blocks=6)
        assert_float32_close(device.download(sums), 2 * x.astype(np.float64).sum(axis=0), mode)
        assert device.download(counter)[0] == 0


@pytest.mark.parametrize("mode", MODES)
def test_grid_barrier_holds_all_blocks(mode: str) -> None:
    device, x = device_of(mode), rng(4).standard_normal((5, 32)).astype(np.float32)
    counter = device.upload(np.zeros(1, np.uint32), "uint32")
    for _ in range(2):
        a, b = device.empty((5, 32), "float32"), device.empty((5, 32), "float32")
        arguments = (device.upload(x, "float32"), a, b, counter, np.int32(3))
        launch(device, "grid_rounds", arguments, blocks=5, cooperative=True)
        assert_float32_close(device.download(b), np.roll(x, -3, axis=0).astype(np.float64) + 3, mode)


@pytest.mark.parametrize("mode", MODES)
def test_release_and_acquire_pass_data_between_blocks(mode: str) -> None:
    device = device_of(mode)
    data, out = device.empty((32,), "float32"), device.empty((32,), "float32")
    flag = device.upload(np.zeros(1, np.uint32), "uint32")
    launch(device, "flag_between_blocks", (data, flag, out), blocks=2, cooperative=True)
    assert_equal(device.download(out), np.arange(32, dtype=np.float32), mode)


@pytest.mark.parametrize("mode", MODES)
def test_atomics(mode: str) -> None:
    device = device_of(mode)
    total = device.upload(np.zeros(1), "float32")
    largest, count = device.upload(np.full(1, -1), "int32"), device.upload(np.zeros(1), "uint32")
    launch(device, "atomic_sums", (total, largest, count), blocks=3)
    assert [device.download(a)[0] for a in (total, largest, count)] == [95 * 96 / 2, 95, 96]


def arrival_order(seed: int) -> list[int]:
    device = simulator("plain", seed, FOLDER)
    counter, order = device.upload(np.zeros(1), "uint32"), device.empty((128,), "uint32")
    launch(device, "arrival_order", (counter, order), threads=64, blocks=2)
    return device.download(order).tolist()


def test_seed_decides_the_order_of_blocks_warps_and_lanes() -> None:
    natural = list(range(128))
    assert arrival_order(0) == natural
    assert arrival_order(1) == natural[::-1]
    assert arrival_order(2) == arrival_order(2)
    assert arrival_order(2) != arrival_order(3)
    assert sorted(arrival_order(2)) == natural


def test_half_conversions_match_numpy_on_every_value() -> None:
    every = np.arange(65536, dtype=np.uint16).view(np.float16)
    check_conversion("float16", every.astype(np.float32), every)


def test_bfloat16_conversions_match_torch() -> None:
    values = np.concatenate([
        rng(5).standard_normal(5000), rng(6).standard_normal(5000) * 1e30,
        [0.0, -0.0, np.inf, -np.inf, np.nan, 3.3895314e38],
        (np.arange(0x3F80, 0x3F90, dtype=np.uint32) << 16 | 0x8000).view(np.float32),
    ]).astype(np.float32)  # fmt: skip
    import torch  # the other tests of this file start without its two seconds

    expected = torch.from_numpy(values).bfloat16().float().numpy()
    check_conversion("bfloat16", values, expected)
    assert_equal(from_host(to_host(values, "bfloat16"), "bfloat16"), expected, "to_host")


@pytest.mark.parametrize("scale", [1.0, 1e-7, 7e4])
def test_rounding_to_half_matches_numpy(scale: float) -> None:
    values = (rng(7).standard_normal(5000) * scale).astype(np.float32)
    with np.errstate(over="ignore"):
        check_conversion("float16", values, values.astype(np.float16))


def check_conversion(dtype: DType, values: np.ndarray, expected: np.ndarray) -> None:
    device = device_of("plain")
    narrow, wide = device.empty(values.shape, dtype), device.empty(values.shape, "float32")
    arguments = (device.upload(values, "float32"), narrow, wide, np.int32(len(values)))
    launch(device, "convert", arguments, (dtype,), 256, -(-len(values) // 256))
    assert_equal(device.download(narrow), expected, f"to {dtype}")
    assert_equal(device.download(wide), expected.astype(np.float32), f"from {dtype}")


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_packed_pairs_keep_their_order(dtype: DType) -> None:
    device, values = device_of("plain"), rng(9).standard_normal(64).astype(np.float32)
    out = device.empty((32,), "uint32")
    launch(device, "packed_pairs", (device.upload(values, "float32"), out), (dtype,))
    assert_equal(device.download(out), to_host(values, dtype).view(np.uint32), dtype)


def test_philox_known_answers() -> None:
    """The vectors of Random123's kat_vectors file, philox4x32 with 10 rounds."""
    ones = 0xFFFFFFFF
    known = [
        ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        ((ones, ones, ones, ones), (ones, ones), (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
        ((0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344), (0xA4093822, 0x299F31D0),
         (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1)),
    ]  # fmt: skip
    counters, keys, expected = np.zeros((32, 4), np.uint32), np.zeros((32, 2), np.uint32), np.zeros((32, 4), np.uint32)
    for i in range(32):
        counters[i], keys[i], expected[i] = known[i % 3]
    device = device_of("plain")
    out = device.empty((32, 4), "uint32")
    launch(device, "random_words", (device.upload(counters, "uint32"), device.upload(keys, "uint32"), out))
    assert_equal(device.download(out), expected, "philox4x32_10")


@pytest.mark.parametrize("mode", ["plain", "address"])
@pytest.mark.parametrize("weights", ["q8_0", "q4_0", "q4_1"])
def test_quantised_blocks_decode_as_gguf_does(mode: str, weights: WeightFormat) -> None:
    device = device_of(mode)
    matrix, expected = make_matrix(device, rng(8), 3, 96, "float16", weights)
    assert matrix.scales is not None
    outputs = [device.empty((3, 96), "float32") for _ in range(3)]
    launch(device, "dequantised", (matrix.values, matrix.scales, *outputs, np.int32(96)),
           ("float16", FORMAT_CODE[weights]), blocks=3)  # fmt: skip
    planes = dequantise_planes(device.download(matrix.values), device.download(matrix.scales), weights)
    assert_float32_close(planes, expected.astype(np.float64), "dequantise_planes", tolerance=1e-6)
    for output, name in zip(outputs, ("whole block", "fours", "eights"), strict=True):
        assert_float32_close(device.download(output), expected.astype(np.float64), f"{weights} {name}", tolerance=1e-6)
