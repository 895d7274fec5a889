"""Device arrays are metadata: slices and views move an address and never the memory."""

from __future__ import annotations

import numpy as np
import pytest

from eet_demo.engine.executors.cuda.arrays import DeviceArray, from_host, to_host
from eet_demo.engine.executors.cuda.compile.launch import check_argument, check_array
from eet_demo.engine.executors.cuda.launchers.matrices import BLOCK_BYTES, WeightFormat, dequantise_planes, split_blocks
from eet_demo.errors import UnsupportedError

CACHE = DeviceArray(4096, (2, 3, 8), "float16")


def test_slices_of_the_leading_dimension() -> None:
    assert CACHE[1] == DeviceArray(4096 + 48, (3, 8), "float16")
    assert CACHE[-1][2] == DeviceArray(4096 + 48 + 32, (8,), "float16")
    assert CACHE[1:] == DeviceArray(4096 + 48, (1, 3, 8), "float16")
    assert CACHE[2:].nbytes == 0
    for index in (2, -3):
        with pytest.raises(IndexError):
            CACHE[index]
    with pytest.raises(IndexError, match="step 2"):
        CACHE[::2]


def test_views_stay_within_the_memory() -> None:
    assert CACHE.view((4, 4), "float32", 32) == DeviceArray(4128, (4, 4), "float32")
    for shape, dtype, offset in [
        ((49,), "float16", 0),
        ((48,), "float16", 2),
        ((8,), "float32", 2),
        ((1,), "int8", -1),
    ]:
        with pytest.raises(ValueError, match="do not fit"):
            CACHE.view(shape, dtype, offset)  # type: ignore[arg-type]


def test_checks_name_what_was_given_and_what_is_supported() -> None:
    check_array("keys", CACHE, (2, None, 8), "float16", "float32")
    with pytest.raises(UnsupportedError, match=r"keys has shape \(2, 3, 8\); \(2, any, 4\) is needed"):
        check_array("keys", CACHE, (2, None, 4), "float16")
    with pytest.raises(UnsupportedError, match="keys is float16; supported: float32, bfloat16"):
        check_array("keys", CACHE, (2, 3, 8), "float32", "bfloat16")
    with pytest.raises(UnsupportedError, match="16-byte alignment"):
        check_array("keys", DeviceArray(4104, (8,), "float16"), (8,))


@pytest.mark.parametrize("argument", [3, 1.5, True, np.float64(1), np.int16(1), "x"])
def test_untyped_scalars_are_refused(argument: object) -> None:
    with pytest.raises(TypeError, match="kernel argument 4"):
        check_argument(4, argument)  # type: ignore[arg-type]


def test_bfloat16_goes_to_the_host_and_back() -> None:
    values = np.array([1.0, -2.5, 3.0e38, np.inf, -np.inf, 1.00390625, 1.01171875], np.float32)
    back = from_host(to_host(values, "bfloat16"), "bfloat16")
    assert back.tolist() == [1.0, -2.5, 226 * 2.0**120, np.inf, -np.inf, 1.0, 1.015625]
    assert np.isnan(from_host(to_host(np.array([np.nan], np.float32), "bfloat16"), "bfloat16")).all()


@pytest.mark.parametrize("weights", list(BLOCK_BYTES))
def test_planes_hold_the_numbers_of_gguf_blocks(weights: WeightFormat) -> None:
    """Against llama.cpp's own Python package, and for every nibble and sign."""
    import gguf

    random = np.random.default_rng(0)
    raw = random.integers(0, 256, (5, 4 * BLOCK_BYTES[weights]), dtype=np.uint8)
    header = 4 if weights == "q4_1" else 2
    for block in range(4):
        start = block * BLOCK_BYTES[weights]
        raw[:, start : start + header] = (
            (random.standard_normal((5, header // 2)) * 0.1).astype(np.float16).view(np.uint8)
        )
    expected = gguf.quants.dequantize(raw, getattr(gguf.GGMLQuantizationType, weights.upper()))
    values, scales = split_blocks(raw, weights)
    assert values.nbytes + scales.nbytes == raw.nbytes
    assert np.array_equal(dequantise_planes(values, scales, weights), expected)
