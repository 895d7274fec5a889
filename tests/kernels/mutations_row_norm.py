"""Faults planted in kernels/cuda/row_norm.cuh, each with a test that must fail."""

from __future__ import annotations

FILE = "row_norm.cuh"

MUTATIONS = (
    # the mean of a layer norm is the sum
    (
        "mean = block_sum<kThreads>(sum) / n;",
        "mean = block_sum<kThreads>(sum);",
        "tests/kernels/test_add_norm.py::test_add_norm_of_every_length",
    ),
    # variance of the values and not of the centred values
    (
        "squares += (x[f][i] - mean) * (x[f][i] - mean);",
        "squares += x[f][i] * x[f][i];",
        "tests/kernels/test_add_norm.py::test_add_norm_of_every_length",
    ),
    # one vector too many counts
    (
        "if ((f * kThreads + thread) * kVec >= n) break;\n#pragma unroll\n"
        "            for (int i = 0; i < kVec; ++i) sum += x[f][i];",
        "if ((f * kThreads + thread) * kVec >= n - kVec) break;\n#pragma unroll\n"
        "            for (int i = 0; i < kVec; ++i) sum += x[f][i];",
        "tests/kernels/test_add_norm.py::test_add_norm_of_every_length",
    ),
    # only the first warp's share is summed
    (
        "rsqrtf(block_sum<kThreads>(squares) / n + eps)",
        "rsqrtf(warp_sum(squares) / n + eps)",
        "tests/kernels/test_add_norm.py::test_add_norm_of_every_length",
    ),
    # the weight of the first fold serves all
    (
        "load_floats<kVec>(weight + k, w);",
        "load_floats<kVec>(weight + thread * kVec, w);",
        "tests/kernels/test_last_rows.py::test_last_rows_gathers_and_normalises",
    ),
    # the bias is ignored
    (
        "inverse * w[i] + b[i]",
        "inverse * w[i]",
        "tests/kernels/test_last_rows.py::test_last_rows_gathers_and_normalises",
    ),
    # a bias that is not there is read
    (
        "if (bias) load_floats<kVec>(bias + k, b);",
        "load_floats<kVec>(bias + k, b);",
        "tests/kernels/test_last_rows.py::test_last_rows_of_a_layer_norm_without_bias",
    ),
)
