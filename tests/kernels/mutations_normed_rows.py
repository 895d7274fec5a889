"""Faults planted in kernels/cuda/normed_rows.cuh, each with a test that must fail."""

FILE = "normed_rows.cuh"

WIDTHS = "tests/kernels/test_norm_mlp.py::test_norm_mlp_takes_every_width"
NORMS = "tests/kernels/test_norm_mlp.py::test_norm_mlp_applies_every_norm"
MEAN = "tests/kernels/test_norm_mlp.py::test_norm_mlp_keeps_its_digits_under_a_large_mean"
CLEAN = "tests/kernels/test_norm_mlp.py::test_norm_mlp_is_clean_in_every_mode"

MUTATIONS = (
    # the mean is the sum
    ("if (thread < kBatch) result[thread] /= n;", "", NORMS),
    # the variance of another length
    ("result[kBatch + thread] / n + eps", "result[kBatch + thread] / (n - 8) + eps", NORMS),
    # the variance of the values and not of the centred values
    ("(x[i] - statistics[b]) * (x[i] - statistics[b]) : x[i]", "x[i] * x[i] : x[i]", MEAN),
    # row 0's scale serves all
    ("statistics[kBatch + b] * scale", "statistics[kBatch] * scale", NORMS),
    # the bias is ignored
    ("* scale[i] + shift[i]", "* scale[i]", NORMS),
    # norm weights of the first stage serve all
    ("load_floats<kUnit>(weight + first + k, scale)", "load_floats<kUnit>(weight + k, scale)", WIDTHS),
    # columns of the first stage serve all
    ("load_floats<kUnit>(row(b) + first + k, x)", "load_floats<kUnit>(row(b) + k, x)", WIDTHS),
    # rows are taken in order and not as wanted
    ("wanted ? wanted[b] : b", "b", "tests/kernels/test_norm_lm_head.py::test_norm_lm_head_takes_every_width"),
    # the last warp's share is dropped
    ("for (int w = 0; w < kWarps; ++w)", "for (int w = 0; w < kWarps - 1; ++w)", NORMS),
    # statistics are read before they are there
    ("/ n + eps);\n        __syncthreads();", "/ n + eps);", CLEAN),
    # a row that does not exist is read
    ("if (b >= rows) break;", "if (b > rows) break;", CLEAN),
)  # fmt: skip
