"""Faults planted in kernels/cuda/embed.cu, each with the test that must notice it: find, replace, test."""

from __future__ import annotations

_TEST = "tests/kernels/test_embed.py::test_embed_"

MUTATIONS = (
    # the scale is ignored
    ("x[f][i] = fmaf(scale, x[f][i], p[i]);", "x[f][i] = x[f][i] + p[i];", _TEST + "gathers_scales_and_adds_positions"),
    # the scale is applied to the position too
    ("fmaf(scale, x[f][i], p[i])", "scale * (x[f][i] + p[i])", _TEST + "gathers_scales_and_adds_positions"),
    # positions are read at the row's number
    ("load_fresh(position_ids + row)", "row", _TEST + "gathers_scales_and_adds_positions"),
    # every row is the first token's
    ("load_fresh(token_ids + row)", "load_fresh(token_ids)", _TEST + "gathers_scales_and_adds_positions"),
    # the third fold is dropped
    ("        if (k >= n) break;\n        if constexpr (kNorm !=",
     "        if (k >= n || f == 2) break;\n        if constexpr (kNorm !=",
     _TEST + "gathers_scales_and_adds_positions"),
    # the bound of the loads is one vector late
    ("if (k >= n) break;\n        load_weights", "if (k > n) break;\n        load_weights", _TEST + "normalises"),
    # the bound of the stores is one vector late
    ("if (k >= n) break;\n        if constexpr", "if (k > n) break;\n        if constexpr", _TEST + "normalises"),
    # the row's stride is that of the block
    ("residual + row * n + k", "residual + row * kThreads * kFold * kVec + k", _TEST + "normalises"),
    # threads past the row's end add to the variance
    ("if ((f * kThreads + thread) * kVec >= n) break;\n", "", _TEST + "normalises"),
    # the mean is left in
    ("(x[f][i] - mean) * inverse", "x[f][i] * inverse", _TEST + "normalises"),
    # RMSNorm sums values, not squares
    ("kNorm == kRmsNorm ? x[f][i] * x[f][i] : x[f][i]", "x[f][i]", _TEST + "normalises"),
    # eps is left out
    ("/ n + eps);\n    if constexpr (kNorm == kLayerNorm) {",
     "/ n);\n    if constexpr (kNorm == kLayerNorm) {", _TEST + "normalises"),
    # the bias is left out
    (" * weight[i] + bias[i];", " * weight[i];", _TEST + "normalises"),
    # the statistics are of the threads' warp only
    ("rsqrtf(block_sum<kThreads>(squares)", "rsqrtf(warp_sum(squares)", _TEST + "normalises"),
)  # fmt: skip
