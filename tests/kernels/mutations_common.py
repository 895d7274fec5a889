"""Faults planted in kernels/cuda/common.cuh, each with the test that must notice it: find, replace, test."""

from __future__ import annotations

_TEST = "tests/kernels/test_wrappers.py::test_"

_GATES = "tests/kernels/test_gates.py::test_machine_code_keeps_the_rules[smollm2-135m-float16-dense-sm_90]"

MUTATIONS = (
    # a barrier dropped, before the partial sums are read and before they are written again
    ("    if (lane_id() == 0) partial[warp_id()] = x;\n    __syncthreads();\n    x = warp_sum(",
     "    if (lane_id() == 0) partial[warp_id()] = x;\n    x = warp_sum(",
     _TEST + "block_operations"),
    ("    x = warp_sum(lane_id() < kWarps ? partial[lane_id()] : 0.0f);\n    __syncthreads();",
     "    x = warp_sum(lane_id() < kWarps ? partial[lane_id()] : 0.0f);",
     _TEST + "block_operations"),
    ("    if (lane_id() == 0) partial[warp_id()] = x;\n    __syncthreads();\n    x = warp_max(",
     "    if (lane_id() == 0) partial[warp_id()] = x;\n    x = warp_max(",
     _TEST + "block_operations"),
    # the last warp's part is lost
    ("lane_id() < kWarps ? partial[lane_id()] : 0.0f",
     "lane_id() < kWarps - 1 ? partial[lane_id()] : 0.0f", _TEST + "block_operations"),
    # a bound one too far
    ("lane_id() < kWarps ? partial[lane_id()] : 0.0f",
     "lane_id() <= kWarps ? partial[lane_id()] : 0.0f", _TEST + "block_operations"),
    ("x = warp_max(partial[lane_id() < kWarps ? lane_id() : 0]);",
     "x = warp_max(partial[lane_id()]);", _TEST + "block_operations"),
    # half the tree
    ("for (int offset = kWidth / 2; offset > 0; offset /= 2) x += ",
     "for (int offset = kWidth / 4; offset > 0; offset /= 2) x += ", _TEST + "warp_operations"),
    # a vector of several words repeats its first
    ("reinterpret_cast<const W*>(address)[i];\n    return u.values;\n}\n\n// load_stream",
     "reinterpret_cast<const W*>(address)[0];\n    return u.values;\n}\n\n// load_stream",
     "tests/kernels/test_embed.py::test_embed_normalises"),
    # the machine code: weights wait for the kernel before, and what it writes is read as if it were constant
    ('(load_stream_word, ".L1::no_allocate")', '(load_stream_word, ".nc.L1::no_allocate")', _GATES),
    ("load_fresh(const T* address) { return load_early<N>(address); }",
     "load_fresh(const T* address) { return load<N>(address); }", _GATES),
)  # fmt: skip
