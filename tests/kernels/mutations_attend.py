"""Faults planted in kernels/cuda/attend.cuh, each with the test that must notice it: find, replace, test."""

from __future__ import annotations

_TEST = "tests/kernels/test_attention_decode.py::test_attention_decode_"
_TILES = _TEST + "on_tensor_cores"
_CLEAN = _TEST + "on_tensor_cores_is_clean"
_GATES = "tests/kernels/test_gates.py::test_attention_keeps_the_memory_busy_at_a_long_context"

MUTATIONS = (
    ("if (valid && vector < vectors)", "if (valid && vector <= vectors)", _TEST + "every_shape"),
    ("lane_id() < kLanes && d < kHeadDim", "lane_id() < kLanes", _TEST + "every_shape"),
    ("l[h] *= keep;", "", _TEST + "options"),
    ("acc[h][i] *= keep;", "", _TEST + "options"),
    ("l = l * keep + other_l * take;", "l = l * keep + other_l;", _TEST + "options"),
    ("query[h][i] = scale *", "query[h][i] = (scale > 0.0f ? 1.0f : scale) *", _TEST + "every_shape"),
    (
        "slope[h] * static_cast<float>(position - slot)",
        "slope[h] * static_cast<float>(position - slot + slot % 2)",
        _TEST + "options",
    ),
    ("sum = soft_cap * tanhf(sum / soft_cap);", "sum = tanhf(sum / soft_cap);", _TEST + "options"),
    (
        "acc[h][i] = fmaf(weight, to_float(v[u][i / kVec].v[i % kVec]), acc[h][i]);",
        "acc[h][i] = to_float(from_float<T>(fmaf(weight, to_float(v[u][i / kVec].v[i % kVec]), acc[h][i])));",
        _TEST + "accumulates_long_rows_in_float32",
    ),
    (
        "for (int offset = kLanes; offset < kWarp; offset *= 2)",
        "for (int offset = kLanes; offset < kWarp / 2; offset *= 2)",
        _TEST + "batches",
    ),
    # tensor cores: bounds, order of fragments, and both halves of the columns
    ("slot < last && column < kHeadDim", "column < kHeadDim", _TILES),
    ("slot < last && column < kHeadDim", "slot < last", _TILES),
    ("if (head < heads && column < kHeadDim) u.values", "if (column < kHeadDim) u.values", _TILES),
    ("low[2] = {k[0], k[1]}", "low[2] = {k[1], k[0]}", _TILES),
    ("low[2] = {v[0], v[1]}", "low[2] = {v[1], v[0]}", _TILES),
    ("8 * (part * kColumns + n) + pair + i", "8 * n + pair + i", _TILES),
    ("* kStride + 8 * (part * kColumns + n)", "* kStride + 8 * n", _TILES),
    ("acc[n][i] *= keep, acc[n + 1][i] *= keep;", "acc[n][i] *= keep;", _TILES),
    ("l = warp_sum<4>(l);", "", _TILES),
    ("top = warp_max<4>(top);", "", _TILES),
    ("x *= scale;", "", _TILES),
    # a stage is overwritten while others read it, or read before it is there
    ("        meet();\n    }\n\n    l =", "    }\n\n    l =", _CLEAN),
    ("        cp_async_wait<1>();\n        meet();", "        cp_async_wait<1>();", _CLEAN),
    ("cp_async_wait<1>();", "cp_async_wait<2>();", _TILES),
    # nothing is under way while a tile is used
    ("cp_async_wait<1>();", "cp_async_wait<0>();", _GATES),
    ("        fetch(base + kStride);\n", "", _TEST + "every_shape"),
)
