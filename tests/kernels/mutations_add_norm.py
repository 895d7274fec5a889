"""Faults planted in kernels/cuda/add_norm.cu, each with a test that must fail."""

from __future__ import annotations

MUTATIONS = (
    # the scale is ignored
    (
        "fmaf(scale, added[i] + b[i], sum[f][i])",
        "fmaf(scale > 0.0f ? 1.0f : 0.0f, added[i] + b[i], sum[f][i])",
        "tests/kernels/test_add_norm.py::test_add_norm_of_any_number_of_rows",
    ),
    # the scale leaves out the bias
    (
        "fmaf(scale, added[i] + b[i], sum[f][i])",
        "fmaf(scale, added[i], sum[f][i]) + b[i]",
        "tests/kernels/test_add_norm.py::test_add_norm_of_any_number_of_rows",
    ),
    # the sum is rounded to T on its way
    (
        "fmaf(scale, added[i] + b[i], sum[f][i])",
        "to_float(from_float<T>(fmaf(scale, added[i] + b[i], sum[f][i])))",
        "tests/kernels/test_add_norm.py::test_add_norm_of_any_number_of_rows",
    ),
    # the residual is not written back
    (
        "            store_floats<kVec>(residual + first + k, sum[f]);\n",
        "",
        "tests/kernels/test_add_norm.py::test_add_norm_of_any_number_of_rows",
    ),
    # every row is the first
    (
        "static_cast<int64_t>(blockIdx.x) * n;",
        "static_cast<int64_t>(0);",
        "tests/kernels/test_add_norm.py::test_add_norm_of_any_number_of_rows",
    ),
    # the bound of the loads is one vector early
    (
        "if (k >= n) break;\n        load_floats_fresh<kVec>(residual",
        "if (k >= n - kVec) break;\n        load_floats_fresh<kVec>(residual",
        "tests/kernels/test_add_norm.py::test_add_norm_of_every_length",
    ),
    # the bound of the stores is one vector late
    (
        "if (k >= n) break;\n            store_floats<kVec>(out",
        "if (k > n) break;\n            store_floats<kVec>(out",
        "tests/kernels/test_add_norm.py::test_add_norm_of_every_length",
    ),
    # folds overlap
    (
        "const int k = (f * kThreads + thread) * kVec;\n            if",
        "const int k = (f + thread) * kVec;\n            if",
        "tests/kernels/test_add_norm.py::test_add_norm_of_every_length",
    ),
)
