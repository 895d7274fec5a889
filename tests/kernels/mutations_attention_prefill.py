"""Faults planted in kernels/cuda/attention_prefill.cu, each with a test that must fail."""

from __future__ import annotations

HEADS = "tests/kernels/test_attention_prefill.py::test_attention_prefill_of_every_head"
OPTIONS = "tests/kernels/test_attention_prefill.py::test_attention_prefill_options"
ROWS = "tests/kernels/test_attention_prefill.py::test_attention_prefill_of_any_number_of_rows"
CLEAN = "tests/kernels/test_attention_prefill.py::test_attention_prefill_is_clean_in_every_mode"
LONG = "tests/kernels/test_attention_prefill.py::test_attention_prefill_after_a_long_context"
LARGE = "tests/kernels/test_attention_prefill.py::test_attention_prefill_survives_scores_of_any_size"
OFFSETS = "tests/kernels/test_attention_prefill.py::test_attention_prefill_offsets_are_64_bits_wide"

MUTATIONS = (
    # where a tile is
    ("tile.first_row = row_starts[b] + offset;", "tile.first_row = row_starts[0] + offset;", HEADS),
    ("min(kTileQ, row_starts[b + 1] - row_starts[b] - offset)", "min(kTileQ, row_starts[b + 1] - offset)", HEADS),
    (
        "min(kTileQ, row_starts[b + 1] - row_starts[b] - offset)",
        "min(kTileQ, row_starts[b + 1] - row_starts[b] - offset - 1)",
        HEADS,
    ),
    ("tile.first_slot = cache_starts[b] + offset;", "tile.first_slot = cache_starts[0] + offset;", HEADS),
    ("static_cast<int64_t>(cache_rows[b]) * num_kv_heads", "static_cast<int64_t>(cache_rows[0]) * num_kv_heads", HEADS),
    ("kv_head = blockIdx.y / (gridDim.y / num_kv_heads)", "kv_head = blockIdx.y % num_kv_heads", HEADS),
    (
        "* num_kv_heads + kv_head) * max_context * head_dim",
        "* num_kv_heads + kv_head) * (max_context - 1) * head_dim",
        HEADS,
    ),
    (
        "tile.begin = max(0, tile.first_slot - window + 1);",
        "tile.begin = max(0, tile.first_slot - window + kTileQ);",
        OPTIONS,
    ),
    ("tile.end = tile.first_slot + tile.rows;", "tile.end = tile.first_slot + tile.rows - 1;", HEADS),
    ("tile.end = tile.first_slot + tile.rows;", "tile.end = tile.first_slot + kTileQ;", HEADS),
    ("int64_t cache_at;", "int cache_at;", OFFSETS),
    # what a score is
    ("float score = product * scale;", "float score = scale > 0.0f ? product : 0.0f;", HEADS),
    ("score = soft_cap * tanhf(score / soft_cap);", "score = soft_cap * tanhf(score);", OPTIONS),
    ("(score - slope * static_cast<float>(distance))", "(score + slope * static_cast<float>(distance))", OPTIONS),
    ("distance >= 0 && distance < window", "distance > 0 && distance < window", HEADS),
    ("distance >= 0 && distance < window", "distance < window", HEADS),
    ("distance >= 0 && distance < window", "distance >= 0 && distance <= window", OPTIONS),
    ("return maximum == __int_as_float(0xff800000) ? 0.0f : maximum;", "return maximum;", OPTIONS),
    # copies
    (
        "const bool valid = first + row < end && column < head_dim;",
        "const bool valid = first + row < end + kTileK && column < head_dim;",
        HEADS,
    ),
    ("const bool valid = first + row < end && column < head_dim;", "const bool valid = first + row < end;", HEADS),
    ("const bool valid = row < tile.rows && column < head_dim;", "const bool valid = column < head_dim;", CLEAN),
    (
        "        cp_async_wait<1>();\n        __syncthreads();\n\n        float score",
        "        __syncthreads();\n\n        float score",
        HEADS,
    ),
    ("        cp_async_wait<1>();   // the values are here; the next keys may still travel\n", "", HEADS),
    (
        "    cp_async_wait<0>();\n    __syncthreads();\n#pragma unroll\n    for (int s",
        "    __syncthreads();\n#pragma unroll\n    for (int s",
        HEADS,
    ),
    # barriers
    ("        __syncthreads();   // the keys have been read: the next may come\n", "", CLEAN),
    (
        "        __syncthreads();   // the values have been read\n    }\n    pdl_trigger();\n\n"
        "#pragma unroll\n    for (int half_tile",
        "    }\n    pdl_trigger();\n\n#pragma unroll\n    for (int half_tile",
        CLEAN,
    ),
    ("        __syncthreads();   // the keys have been read: the values take their place\n", "", CLEAN),
    ("        __syncthreads();   // the values of all threads, the weights of this warp\n", "", CLEAN),
    # products and online softmax
    (
        "const int slot = first_slot + 8 * half_tile - at - lane % 4 * 2;",
        "const int slot = first_slot + 8 * half_tile - at - lane % 4;",
        HEADS,
    ),
    ("ldmatrix_x4_trans(value,", "ldmatrix_x4(value,", HEADS),
    ("highest = warp_max<4>(highest);", "highest = warp_max<2>(highest);", LARGE),
    ("            sum[half_tile] *= shrink;\n", "", LONG),
    ("result[c][2 * half_tile + 1] *= shrink;", "result[c][2 * half_tile + 1] *= 1.0f;", LONG),
    ("1.0f / warp_sum<4>(sum[half_tile])", "1.0f / (4.0f * sum[half_tile])", HEADS),
    (
        "mma_16816<T>(result[c + 1], weight, {value[2], value[3]}, result[c + 1]);",
        "mma_16816<T>(result[c + 1], weight, {value[2], value[3]}, result[c + 1]);\n"
        "                for (float& x : result[c]) x = to_float(from_float<T>(x));",
        LONG,
    ),
    ("if (row >= tile.rows) continue;", "if (row > tile.rows) continue;", ROWS),
    ("if (c * 8 >= head_dim) break;", "if (c * 8 > head_dim) break;", HEADS),
    ("(gridDim.x - 1 - blockIdx.x) * kTileQ", "(gridDim.x - 1) * kTileQ", HEADS),
    # the float32 path
    ("sum[r] = sum[r] * shrink + warp_sum(weight);", "sum[r] = sum[r] + warp_sum(weight);", ROWS),
    ("first_slot + r - at - lane, window);", "first_slot - at - lane, window);", ROWS),
    ("if (row >= tile.rows) break;", "if (row > tile.rows) break;", ROWS),
    ("if (column < head_dim) out[", "if (column <= head_dim) out[", HEADS),
    ("result[r][c] *= shrink;", "result[r][c] *= 1.0f;", ROWS),
)
