"""Faults planted in kernels/cuda/normed_rows.cuh, each with a test that must fail."""

FILE = "normed_rows.cuh"

WIDTHS = "tests/kernels/test_norm_mlp.py::test_norm_mlp_takes_every_width"
NORMS = "tests/kernels/test_norm_mlp.py::test_norm_mlp_applies_every_norm"
MEAN = "tests/kernels/test_norm_mlp.py::test_norm_mlp_keeps_its_digits_under_a_large_mean"
CLEAN = "tests/kernels/test_norm_mlp.py::test_norm_mlp_is_clean_in_every_mode"
TILES = "tests/kernels/test_norm_mlp.py::test_norm_mlp_walks_through_tiles"

MUTATIONS = (
    # without held rows: the mean is the sum
    ("result[thread] *= one_nth;", "result[thread] *= 1.0f;", NORMS),
    # the variance of another length
    ("rsqrtf(result[kBatch + thread] * one_nth + eps)", "rsqrtf(result[kBatch + thread] / (n - 8) + eps)", NORMS),
    # the variance of the values and not of the centred values
    ("(x[i] - statistics[b]) * (x[i] - statistics[b]) : x[i]", "x[i] * x[i] : x[i]", MEAN),
    # row 0's scale serves all
    ("statistics[kBatch + b] * w", "statistics[kBatch] * w", NORMS),
    # the bias is ignored
    ("* w[i] + s[i]", "* w[i]", NORMS),
    # norm weights of the first stage serve all
    ("load_floats<kUnit>(weight + first + k, w)", "load_floats<kUnit>(weight + k, w)", WIDTHS),
    # columns of the first stage serve all
    ("load_floats_fresh<kUnit>(row(b) + first + k, x)", "load_floats_fresh<kUnit>(row(b) + k, x)", WIDTHS),
    # rows are taken in order and not as wanted
    ("wanted ? wanted[b] : b", "b", "tests/kernels/test_norm_lm_head.py::test_norm_lm_head_takes_every_width"),
    # the last warp's share is dropped
    ("for (int w = 0; w < kWarps; ++w)", "for (int w = 0; w < kWarps - 1; ++w)", NORMS),
    # statistics are read before they are there
    ("* one_nth + eps);\n        __syncthreads();", "* one_nth + eps);", CLEAN),
    # a row that does not exist is read
    ("if (b >= rows) break;", "if (b > rows) break;", CLEAN),
    # held rows: the weights of counts are forgotten
    ("(count * mean + other_count * other_mean) * share", "(mean + other_mean) * 0.5f", WIDTHS),
    # the distance of the means is
    ("squares += other_squares + delta * delta * (count * other_count * share);", "squares += other_squares;", NORMS),
    # threads past the row's end count
    ("held_column() < n ? Moments{kUnit, mean, squares} : Moments{0.0f, 0.0f, 0.0f}",
     "Moments{kUnit, mean, squares}", WIDTHS),
    # half the block's warps are merged
    ("warp_merge<kWarps>(partial", "warp_merge<kWarps / 2>(partial", TILES),
    ("warp_sum<kWarps>(partial", "warp_sum<kWarps / 2>(partial", WIDTHS),
    # partial sums are read before they are there
    ("partial[warp_id() * kBatch + b] = mine;\n        }\n        __syncthreads();",
     "partial[warp_id() * kBatch + b] = mine;\n        }", TILES),
    # norm weights and biases of another column
    ("load_floats_early<kUnit>(weight + k, scale)", "load_floats_early<kUnit>(weight, scale)", NORMS),
    ("load_floats_early<kUnit>(bias + k, shift)", "load_floats_early<kUnit>(bias, shift)", NORMS),
    # the mean is not subtracted
    ("(x[i] - means[b]) * inverses[b]", "x[i] * inverses[b]", NORMS),
)  # fmt: skip
