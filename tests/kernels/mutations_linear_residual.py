"""Faults planted in kernels/cuda/linear_residual.cu, each with a test that must fail."""

FORMATS = "tests/kernels/test_linear_residual.py::test_linear_residual_reads_every_format"
CLEAN = "tests/kernels/test_linear_residual.py::test_linear_residual_is_clean_in_every_mode"

MUTATIONS = (
    # the scale is ignored
    ("const float value = scale * (", "const float value = (", FORMATS),
    # the bias is ignored
    ("(bias ? to_float(bias[first + i]) : 0.0f)", "0.0f", FORMATS),
    # every block takes the first block's bias
    ("to_float(bias[first + i])", "to_float(bias[i])", FORMATS),
    # the residual is overwritten
    ("residual[at] += value", "residual[at] = value", FORMATS),
    # one feature too many
    ("if (first + i >= n) continue;", "if (first + i > n) continue;", FORMATS),
    # the last row is left out
    ("item < kTile * rows;", "item < kTile * (rows - 1);", FORMATS),
    # the stride of another matrix
    ("static_cast<int64_t>(b) * n + first + i", "static_cast<int64_t>(b) * k + first + i", FORMATS),
    # weight rows past the last are read
    ("return min(first + i, n - 1);", "return first + i;", CLEAN),
    # the product goes out without its scale's sign
    ("else product[at] = from_float<T>(value);", "else product[at] = from_float<T>(-value);",
     "tests/kernels/test_linear_residual.py::test_linear_residual_stores_a_product_that_a_norm_follows"),
)  # fmt: skip
