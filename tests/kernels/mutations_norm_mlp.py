"""Faults planted in kernels/cuda/norm_mlp.cu, each with a test that must fail."""

ACTIVATIONS = "tests/kernels/test_norm_mlp.py::test_norm_mlp_has_every_activation"
WIDTHS = "tests/kernels/test_norm_mlp.py::test_norm_mlp_takes_every_width"
CLEAN = "tests/kernels/test_norm_mlp.py::test_norm_mlp_is_clean_in_every_mode"

MUTATIONS = (
    # gate and up change places
    ("activate<kActivation>(value(i, b))", "activate<kActivation>(value(i + kPer - 1, b))", WIDTHS),
    # the gate multiplies itself
    ("out *= value(i + 1, b)", "out *= value(i, b)", WIDTHS),
    # the bias of another feature
    ("to_float(bias[first + i])", "to_float(bias[first])", ACTIVATIONS),
    # the bias is ignored
    ("(bias ? to_float(bias[first + i]) : 0.0f)", "0.0f", ACTIVATIONS),
    # the last row is left out
    ("item < kTile / kPer * rows;", "item < kTile / kPer * (rows - 1);", WIDTHS),
    # one feature too many
    ("if (first + i >= n) continue;", "if (first + i > n) continue;", CLEAN),
    # gated rows lie as far apart as plain ones
    ("(static_cast<int64_t>(b) * n + first + i) / kPer", "static_cast<int64_t>(b) * n + (first + i) / kPer", CLEAN),
    # weight rows past the last are read
    ("return min(first + i, n - 1);", "return first + i;", CLEAN),
)  # fmt: skip
