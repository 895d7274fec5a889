"""Faults planted in kernels/cuda/dequantise.cu, each with a test that must fail."""

from __future__ import annotations

MUTATIONS = (
    # the tile begins at another row
    (
        "load_weights(matrix, first_row, static_cast<int>(at), x)",
        "load_weights(matrix, first_row / 2, static_cast<int>(at), x)",
        "tests/kernels/test_dequantise.py::test_dequantise_a_tile_in_the_middle",
    ),
    # the last vector is left out
    ("at < count;", "at < count - kVec;", "tests/kernels/test_dequantise.py::test_dequantise_every_format"),
    # one vector too many
    ("at < count;", "at <= count;", "tests/kernels/test_dequantise.py::test_dequantise_is_clean_in_every_mode"),
    # the stride of the rows is wrong
    (
        "matrix = {weights, scales, columns}",
        "matrix = {weights, scales, columns - kBlockValues}",
        "tests/kernels/test_dequantise.py::test_dequantise_a_tile_in_the_middle",
    ),
    # every block of threads writes the first block's values
    (
        "(static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x) * kVec",
        "static_cast<int64_t>(threadIdx.x) * kVec",
        "tests/kernels/test_dequantise.py::test_dequantise_every_format",
    ),
    # the first value of a thread is off by one
    (
        "store_floats<kVec>(out + at, x)",
        "(x[0] += 1.0f, store_floats<kVec>(out + at, x))",
        "tests/kernels/test_dequantise.py::test_dequantise_every_format",
    ),
)
