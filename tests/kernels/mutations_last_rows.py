"""Faults planted in kernels/cuda/last_rows.cu, each with a test that must fail."""

from __future__ import annotations

MUTATIONS = (
    # the first row wanted, always
    (
        "static_cast<int64_t>(load_fresh(wanted + blockIdx.x)) * n",
        "static_cast<int64_t>(wanted[0]) * n",
        "tests/kernels/test_last_rows.py::test_last_rows_gathers_and_normalises",
    ),
    # the row after the one wanted
    (
        "static_cast<int64_t>(load_fresh(wanted + blockIdx.x)) * n",
        "static_cast<int64_t>(wanted[blockIdx.x] + 1) * n",
        "tests/kernels/test_last_rows.py::test_last_rows_gathers_and_normalises",
    ),
    # the result goes half-way to where the row came from
    (
        "store_floats<kVec>(out + target + k, x[f])",
        "store_floats<kVec>(out + (source + target) / 2 + k, x[f])",
        "tests/kernels/test_last_rows.py::test_last_rows_gathers_and_normalises",
    ),
    # the last row is skipped
    (
        "    normalise_row<",
        "    if (blockIdx.x + 1 == gridDim.x) return;\n    normalise_row<",
        "tests/kernels/test_last_rows.py::test_last_rows_gathers_and_normalises",
    ),
    # another eps
    (
        "norm_bias, n, eps);",
        "norm_bias, n, eps + 1.0f);",
        "tests/kernels/test_last_rows.py::test_last_rows_gathers_and_normalises",
    ),
    # a store past the end of the row
    (
        "if (k >= n) break;\n        store_floats",
        "if (k > n) break;\n        store_floats",
        "tests/kernels/test_last_rows.py::test_last_rows_gathers_and_normalises",
    ),
)
