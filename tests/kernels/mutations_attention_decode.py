"""Faults planted in kernels/cuda/attention_decode.cu, each with the test that must notice it: find, replace, test."""

from __future__ import annotations

_TEST = "tests/kernels/test_attention_decode.py::test_attention_decode_"

MUTATIONS = (
    # bounds
    ("end(position + 1) {}", "end(position) {}", _TEST + "batches"),
    ("end(position + 1) {}", "end(position + 2) {}", _TEST + "batches"),
    ("max(0, position - window + 1)", "max(0, position - window)", _TEST + "options"),
    ("max(0, position - window + 1)", "max(0, position - window + 2)", _TEST + "options"),
    ("(end - begin + kTile - 1) / kTile", "(end - begin) / kTile", _TEST + "every_shape"),
    # strides and offsets
    (
        "* num_kv_heads + kv_head) * max_context * kHeadDim",
        "* num_kv_heads + kv_head) * (max_context - 1) * kHeadDim",
        _TEST + "batches",
    ),
    (
        "* num_kv_heads + kv_head) * max_context * kHeadDim",
        "* num_heads + kv_head) * max_context * kHeadDim",
        _TEST + "batches",
    ),
    ("static_cast<int64_t>(piece.cache_row)", "static_cast<int64_t>(piece.row)", _TEST + "batches"),
    ("const int64_t cache_at", "const int cache_at", _TEST + "offsets_are_64_bits_wide"),
    ("head = kv_head * group + in_group,", "head = kv_head * group,", _TEST + "every_shape"),
    ("min(kHeads, group - in_group)", "kHeads", _TEST + "every_shape"),
    # the softmax
    ("slopes ? slopes + head : nullptr", "slopes + piece.pair", _TEST + "options"),
    # pieces and their merge
    ("for (int w = 0; w < kSets; ++w) {", "for (int w = 0; w < kSets - 1; ++w) {", _TEST + "batches"),
    ("part < piece.parts; ++part", "part < piece.parts - 1; ++part", _TEST + "any_number_of_blocks"),
    ("(block + 1) / parts),", "(block + 1) / (parts + 1)),", _TEST + "any_number_of_blocks"),
    ("* gridDim.y + pair) * gridDim.x;", "* gridDim.y + pair) * parts;", _TEST + "is_clean_in_every_mode"),
    (
        "(piece.row) * pairs + piece.pair, piece.parts)",
        "(piece.row) * (pairs - 1) + piece.pair, piece.parts)",
        _TEST + "is_clean_in_every_mode",
    ),
    ("(start + 1) * blocks - 1) / total", "start * blocks / total)", _TEST + "any_number_of_blocks"),
    (
        "2 * first_block + 1, 2 * first_block, 2}",
        "2 * first_block, 2 * first_block, 2}",
        _TEST + "does_not_depend_on_the_order_of_blocks",
    ),
    ("at = end;", "at = stop;", _TEST + "any_number_of_blocks"),
    ("row_start = row_stop;", "row_start += tiles;", _TEST + "any_number_of_blocks"),
    # barriers and tickets
    (
        "soft_cap, block_m, block_l, block_acc);\n    __syncthreads();",
        "soft_cap, block_m, block_l, block_acc);",
        _TEST + "is_clean_in_every_mode",
    ),
    ("__syncthreads();   // block_acc is free for the next piece", "", _TEST + "is_clean_in_every_mode"),
    ("piece.pair, piece.parts)) return;", "piece.pair, piece.parts - 1)) return;", _TEST + "is_clean_in_every_mode"),
    # the merge: a part is left out, or its maximum
    ("part += kWarp)", "part += 2 * kWarp)", _TEST + "merges_more_parts_than_a_warp"),
    ("exp2f(load_fresh(record + kHeads * kHeadDim + 2 * h) - m)", "1.0f", _TEST + "any_number_of_blocks"),
    ("__syncthreads();   // whole_m and whole_l are free for the next piece", "", _TEST + "is_clean_in_every_mode"),
    # values are all asked for when the first is used
    (
        "        pdl_wait();\n        pdl_trigger();\n        if (block >= parts) return;",
        "        if (block >= parts) return;\n        pdl_wait();\n        pdl_trigger();",
        _TEST + "is_clean_in_every_mode",
    ),
)
