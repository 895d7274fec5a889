"""Faults planted in kernels/cuda/linear_residual.cu, each with a test that must fail."""

FORMATS = "tests/kernels/test_linear_residual.py::test_linear_residual_reads_every_format"
GROUPS = "tests/kernels/test_linear_residual.py::test_linear_residual_gives_a_block_more_rows_where_there_are_many"
TILES = "tests/kernels/test_linear_residual.py::test_linear_residual_walks_through_tiles"
CLEAN = "tests/kernels/test_linear_residual.py::test_linear_residual_is_clean_in_every_mode"

RULES = "tests/kernels/test_gates.py::test_machine_code_keeps_the_rules[smollm2-135m-float16-dense-sm_90]"

MUTATIONS = (
    # the scale is ignored
    ("const float value = scale * sum(i, b);", "const float value = sum(i, b);", FORMATS),
    # the bias is ignored
    ("scales, k}, bias, n, row_of)", "scales, k}, nullptr, n, row_of)", FORMATS),
    # the residual is overwritten
    ("residual[at] = old[j] + value;", "residual[at] = value;", FORMATS),
    # the residual of the first tile is added to all
    ("load_residual, [&]", "[&](int) { load_residual(gemv.first); }, [&]", TILES),
    # one feature too many
    ("end = min(n, gemv.last)", "end = min(n + 1, gemv.last)", FORMATS),
    # rows of the next block's share are finished too
    ("end = min(n, gemv.last)", "end = n", GROUPS),
    # the stride of another matrix
    ("const int64_t at = static_cast<int64_t>(b) * n + row;",
     "const int64_t at = static_cast<int64_t>(b) * k + row;", FORMATS),
    # weight rows past the last are read
    ("return min(v, n - 1);", "return v;", CLEAN),
    # the product goes out without its scale's sign
    ("else product[at] = from_float<T>(value);", "else product[at] = from_float<T>(-value);",
     "tests/kernels/test_linear_residual.py::test_linear_residual_stores_a_product_that_a_norm_follows"),
    # the residual is asked for when the sums are there
    ("residual[at] = old[j] + value;", "residual[at] = load_fresh(residual + at) + value;", RULES),
)  # fmt: skip
