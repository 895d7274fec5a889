"""Faults planted in kernels/cuda/gemv.cuh, each with a test that must fail."""

FILE = "gemv.cuh"

WIDTHS = "tests/kernels/test_linear_residual.py::test_linear_residual_takes_every_width"
FORMATS = "tests/kernels/test_linear_residual.py::test_linear_residual_reads_every_format"
STAGES = "tests/kernels/test_linear_residual.py::test_linear_residual_takes_16_rows_in_stages"
BLOCKS = "tests/kernels/test_linear_residual.py::test_linear_residual_gives_a_block_more_rows_where_there_are_many"
CLEAN = "tests/kernels/test_linear_residual.py::test_linear_residual_is_clean_in_every_mode"

MUTATIONS = (
    # sums are read before every warp has stored its own
    ("            }\n        }\n        __syncthreads();\n        return partial;",
     "            }\n        }\n        return partial;", CLEAN),
    # a stage is overwritten while others still multiply
    ("if (first) __syncthreads();", "", CLEAN),
    # a stage is read before it is written
    ("stage(x, first, end);\n            __syncthreads();", "stage(x, first, end);", FORMATS),
    # the last split of K is dropped
    ("for (int s = 0; s < kSplit; ++s) sum", "for (int s = 0; s < kSplit - 1; ++s) sum", FORMATS),
    # a later stage begins without its first weights
    ("else fetch(end, chunk_end(end));", "else fetch(end, end);", STAGES),
    ("if (k + kStep < end) fetch", "if (k + kStep <= end) fetch", STAGES),
    # scales are ignored
    ("out[i] = d * (small_float((word", "out[i] = (small_float((word", FORMATS),
    ("out[i] = d * (small_float(word >> (at / 16 * 4) & 15u) - 8.0f)",
     "out[i] = small_float(word >> (at / 16 * 4) & 15u) - 8.0f", FORMATS),
    # the zero of Q4_0 is off by one
    ("& 15u) - 8.0f)", "& 15u) - 7.0f)", FORMATS),
    # the minimum of Q4_1 is ignored
    ("& 15u), to_float(pack.scale.v[1]))", "& 15u), 0.0f)", FORMATS),
    # low nibbles for high ones
    ("small_float(word >> (at / 16 * 4) & 15u) - 8.0f", "small_float(word & 15u) - 8.0f", FORMATS),
    # scale and minimum of the wrong block
    ("w.scales + at / kBlockValues * kScales", "w.scales + at / kBlockValues", FORMATS),
    # staged rows overlap
    ("values + b * stride +", "values + b * (stride / 2) +", FORMATS),
    # fragments of the tensor cores in the wrong order
    ("{{low[0], high[0], low[1], high[1]},", "{{low[0], low[1], high[0], high[1]},", STAGES),
    ("{{u.words[0], u.words[1]},", "{{u.words[1], u.words[0]},", STAGES),
    ("lane_id() % 4 * 2 + i % 2", "lane_id() % 4 + i % 2 * 4", STAGES),
    ("lane_id() / 4 + 8 * r", "lane_id() / 4 + 4 * r", STAGES),
    # a group takes the weight rows of another
    ("group * kWarpRows +", "group * kLaneRows +", BLOCKS),
    # columns past the last are multiplied
    ("if (valid) u.values = load<8>", "u.values = load<8>", STAGES),
    ("} else if (at < end) {", "} else if (at <= end) {", WIDTHS),
    # a row that does not exist is read
    ("if (b < rows) values = load", "if (b <= rows) values = load", CLEAN),
    # sums are kept in the storage type
    ("sums[r * kBatch + b] = fmaf(weights[r][i], values[i], sums[r * kBatch + b]);",
     "sums[r * kBatch + b] = to_float(from_float<T>(fmaf(weights[r][i], values[i], sums[r * kBatch + b])));", FORMATS),
)  # fmt: skip
