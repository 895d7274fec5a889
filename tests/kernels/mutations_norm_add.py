"""Faults planted in kernels/cuda/norm_add.cu, each with a test that must fail."""

WIDTHS = "tests/kernels/test_norm_add.py::test_norm_add_takes_every_width"

MUTATIONS = (
    # the scale is ignored
    ("fmaf(scale, added[f][i], sum[i])", "fmaf(1.0f, added[f][i], sum[i])", WIDTHS),
    # the residual is overwritten
    ("fmaf(scale, added[f][i], sum[i])", "scale * added[f][i]", WIDTHS),
    # no norm
    ("    normalise_row<kNorm, kThreads>(added, norm_weight, norm_bias, n, eps);\n", "", WIDTHS),
    # the bias is ignored
    ("(added, norm_weight, norm_bias, n, eps)", "(added, norm_weight, nullptr, n, eps)", WIDTHS),
    # rows overlap
    ("static_cast<int64_t>(blockIdx.x) * n;", "static_cast<int64_t>(blockIdx.x) * (n - kVec);", WIDTHS),
    # the last vector of x is left out
    ("if (k >= n) break;\n        load_floats_fresh<kVec>(x",
     "if (k >= n - kVec) break;\n        load_floats_fresh<kVec>(x", WIDTHS),
)  # fmt: skip
