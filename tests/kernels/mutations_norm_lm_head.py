"""Faults planted in kernels/cuda/norm_lm_head.cu, each with a test that must fail."""

WIDTHS = "tests/kernels/test_norm_lm_head.py::test_norm_lm_head_takes_every_width"
OPTIONS = "tests/kernels/test_norm_lm_head.py::test_norm_lm_head_adds_bias_scales_and_caps"
TIES = "tests/kernels/test_norm_lm_head.py::test_norm_lm_head_gives_ties_to_the_lower_id"
NANS = "tests/kernels/test_norm_lm_head.py::test_norm_lm_head_hands_on_a_nan"
CLEAN = "tests/kernels/test_norm_lm_head.py::test_norm_lm_head_is_clean_in_every_mode"

MUTATIONS = (
    # the scale is ignored
    ("float z = scale * (", "float z = (", OPTIONS),
    # the bias of the block's first token serves all
    ("to_float(bias[first + i])", "to_float(bias[first])", OPTIONS),
    # no soft cap
    ("if (cap > 0.0f) z = cap * tanhf(z / cap);", "", OPTIONS),
    # the cap's slope is lost
    ("cap * tanhf(z / cap)", "cap * tanhf(z)", OPTIONS),
    # ties go to the higher id
    ("(z == highest && i < best)", "(z == highest && i > best)", TIES),
    ("if (z > highest || z != z) highest = z, best = i;", "if (z >= highest || z != z) highest = z, best = i;", TIES),
    # a NaN is passed over
    ("if (z > highest || z != z) highest = z, best = i;", "if (z > highest) highest = z, best = i;", NANS),
    ("if (z > highest || z != z || (z == highest", "if (z > highest || (z == highest", NANS),
    # tokens past the first 32 of a block are not looked at
    ("for (int i = best + kWarp; i < count; i += kWarp)",
     "for (int i = best + 2 * kWarp; i < count; i += kWarp)", TIES),
    # ids count within the block
    ("best_ids[at] = first + best;", "best_ids[at] = best;", WIDTHS),
    # candidates lie the other way round
    ("static_cast<int64_t>(b) * gridDim.x + blockIdx.x", "static_cast<int64_t>(blockIdx.x) * rows + b", WIDTHS),
    # the last block covers tokens that do not exist
    ("const int count = min(kTile, vocab - first);", "const int count = kTile;", CLEAN),
    # logits are compared before they are there
    ("if (!best_logits) return;\n    __syncthreads();", "if (!best_logits) return;", CLEAN),
    # a warp's rows are skipped
    ("b < rows; b += kThreads / kWarp)", "b < rows - 1; b += kThreads / kWarp)", WIDTHS),
    # weight rows past the last are read
    ("return min(first + i, vocab - 1);", "return first + i;", CLEAN),
)  # fmt: skip
