"""Faults planted in kernels/cuda/norm_mlp.cu, each with a test that must fail."""

ACTIVATIONS = "tests/kernels/test_norm_mlp.py::test_norm_mlp_has_every_activation"
WIDTHS = "tests/kernels/test_norm_mlp.py::test_norm_mlp_takes_every_width"
SHARE = "tests/kernels/test_norm_mlp.py::test_norm_mlp_keeps_to_its_share"
TILES = "tests/kernels/test_norm_mlp.py::test_norm_mlp_walks_through_tiles"
CLEAN = "tests/kernels/test_norm_mlp.py::test_norm_mlp_is_clean_in_every_mode"

RULES = "tests/kernels/test_gates.py::test_machine_code_keeps_the_rules[smollm2-135m-float16-dense-sm_90]"

MUTATIONS = (
    # gate and up change places
    ("activate<kActivation>(sum(i, b))", "activate<kActivation>(sum(i + kPer - 1, b))", WIDTHS),
    # the gate multiplies itself
    ("out *= sum(i + 1, b)", "out *= sum(i, b)", WIDTHS),
    # the bias is ignored
    ("scales, k}, bias, n, row_of)", "scales, k}, nullptr, n, row_of)", ACTIVATIONS),
    # rows of the next block's share are written too
    ("end = min(n, gemv.last)", "end = n", SHARE),
    # one feature too many
    ("end = min(n, gemv.last)", "end = min(n + 1, gemv.last)", CLEAN),
    # gated rows lie as far apart as plain ones
    ("(static_cast<int64_t>(b) * n + row) / kPer", "static_cast<int64_t>(b) * n + row / kPer", CLEAN),
    # weight rows past the last are read
    ("return min(v, n - 1);", "return v;", CLEAN),
    # the norm's weights are not asked for
    ("normed.begin();", "", SHARE),
    # what the kernel before writes is promised to be constant
    ("    const float* residual,", "    const float* __restrict__ residual,", RULES),
    # the kernel waits first
    ("    if (!kPrefetch) pdl_wait();", "    pdl_wait();", RULES),
)  # fmt: skip
