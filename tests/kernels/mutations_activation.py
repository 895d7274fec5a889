"""Faults planted in kernels/cuda/activation.cu, each with a test that must fail."""

from __future__ import annotations

MUTATIONS = (
    # gate and up change places
    (
        "in[kPer * j] + b[kPer * j]",
        "in[kPer * j + kPer - 1] + b[kPer * j + kPer - 1]",
        "tests/kernels/test_activation.py::test_activation_of_every_length",
    ),
    # the up half's bias is ignored
    (
        "result[j] *= in[2 * j + 1] + b[2 * j + 1];",
        "result[j] *= in[2 * j + 1];",
        "tests/kernels/test_activation.py::test_activation_of_every_length",
    ),
    # the bias of every fold is that of the first
    (
        "load_floats<kPer * kVec>(bias + i * kPer, b)",
        "load_floats<kPer * kVec>(bias + threadIdx.x * kVec * kPer, b)",
        "tests/kernels/test_activation.py::test_activation_of_every_length",
    ),
    # folds past the first are skipped
    (
        "if (i >= n) return;",
        "if (i >= n || blockIdx.y > 0) return;",
        "tests/kernels/test_activation.py::test_activation_of_every_length",
    ),
    # the bound is one vector late
    ("if (i >= n) return;", "if (i > n) return;", "tests/kernels/test_activation.py::test_activation_of_every_length"),
    # gated rows are half as far apart as they are
    (
        "x + (row * n + i) * kPer",
        "x + row * n + i * kPer",
        "tests/kernels/test_activation.py::test_activation_of_any_number_of_rows",
    ),
    # the activation's result is rounded before it meets up
    (
        "result[j] = activate<kActivation>(in[kPer * j] + b[kPer * j]);",
        "result[j] = activate<kActivation>(to_float(from_float<bfloat16>(in[kPer * j] + b[kPer * j])));",
        "tests/kernels/test_activation.py::test_activation_of_every_kind",
    ),
)
