"""Faults planted in kernels/cuda/norm_lm_head.cu, each with a test that must fail."""

WIDTHS = "tests/kernels/test_norm_lm_head.py::test_norm_lm_head_takes_every_width"
OPTIONS = "tests/kernels/test_norm_lm_head.py::test_norm_lm_head_adds_bias_scales_and_caps"
TIES = "tests/kernels/test_norm_lm_head.py::test_norm_lm_head_gives_ties_to_the_lower_id"
NANS = "tests/kernels/test_norm_lm_head.py::test_norm_lm_head_hands_on_a_nan"
SHARE = "tests/kernels/test_norm_lm_head.py::test_norm_lm_head_keeps_to_its_share"
TILES = "tests/kernels/test_norm_lm_head.py::test_norm_lm_head_walks_through_tiles"
CLEAN = "tests/kernels/test_norm_lm_head.py::test_norm_lm_head_is_clean_in_every_mode"

MUTATIONS = (
    # the scale is ignored
    ("float z = scale * sum(i, b);", "float z = sum(i, b);", OPTIONS),
    # the bias is ignored
    ("scales, k}, bias, vocab, row_of)", "scales, k}, nullptr, vocab, row_of)", OPTIONS),
    # no soft cap
    ("if (cap > 0.0f) z = cap * tanhf(z / cap);", "", OPTIONS),
    # the cap's slope is lost
    ("cap * tanhf(z / cap)", "cap * tanhf(z)", OPTIONS),
    # ties go to the higher id
    ("other_value == value) && other_id < id", "other_value == value) && other_id > id", TIES),
    # a NaN is passed over
    ("if ((other_nan && !nan) || higher)", "if (higher)", NANS),
    ("nan == other_nan && (other_value > value", "(other_value > value", NANS),
    # tokens past the first 32 of a tile are not looked at
    ("for (int i = lane_id(); i < kTile; i += kWarp)", "for (int i = lane_id(); i < kWarp; i += kWarp)", TIES),
    # the best of the last tile alone
    ("keep_better(highest[j], best[j], z, row);", "highest[j] = z, best[j] = row;", TILES),
    # candidates lie the other way round
    ("static_cast<int64_t>(b) * gridDim.x + blockIdx.x", "static_cast<int64_t>(blockIdx.x) * rows + b", WIDTHS),
    # tokens that do not exist, or are another block's
    ("end = min(vocab, gemv.last)", "end = gemv.last", CLEAN),
    ("end = min(vocab, gemv.last)", "end = vocab", SHARE),
    # the block's bests are compared before they are there
    ("ids[item] = best[j];\n    }\n    __syncthreads();", "ids[item] = best[j];\n    }", CLEAN),
    # a warp's rows are skipped
    ("b < rows; b += kThreads / kWarp)", "b < rows - 1; b += kThreads / kWarp)", WIDTHS),
    # weight rows past the last are read
    ("return min(v, vocab - 1);", "return v;", CLEAN),
)  # fmt: skip
