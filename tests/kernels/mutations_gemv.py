"""Faults planted in kernels/cuda/gemv.cuh, each with a test that must fail."""

FILE = "gemv.cuh"

WIDTHS = "tests/kernels/test_linear_residual.py::test_linear_residual_takes_every_width"
FORMATS = "tests/kernels/test_linear_residual.py::test_linear_residual_reads_every_format"
STAGES = "tests/kernels/test_linear_residual.py::test_linear_residual_takes_16_rows_in_stages"
TILES = "tests/kernels/test_linear_residual.py::test_linear_residual_walks_through_tiles"
GROUPS = "tests/kernels/test_linear_residual.py::test_linear_residual_gives_a_block_more_rows_where_there_are_many"
CLEAN = "tests/kernels/test_linear_residual.py::test_linear_residual_is_clean_in_every_mode"

MUTATIONS = (
    # sums are read before every warp has stored its own
    ("sums[i] = 0.0f;\n        __syncthreads();", "sums[i] = 0.0f;", CLEAN),
    # sums of the tile before are added to
    ("sums[i] = 0.0f;\n        __syncthreads();", "sums[i] *= 1.0f;\n        __syncthreads();", TILES),
    # a stage is overwritten while others still multiply
    ("if (tile != first || from) __syncthreads();", "", CLEAN),
    # a stage is read before it is written
    ("stage(x, from, to);\n                    __syncthreads();", "stage(x, from, to);", FORMATS),
    # the last split of K is dropped
    ("for (int s = 0; s < kSplit; ++s) sum", "for (int s = 0; s < kSplit - 1; ++s) sum", FORMATS),
    # a later stage begins without its first weights
    ("next_to = chunk_end(next);", "next_to = next == 0 ? chunk_end(0) : next;", STAGES),
    ("if (next >= to) {", "if (next > to) {", STAGES),
    # the next tile has the rows of this one
    ("if (next == 0) begin_tile(tile + kTile, row_of);", "", TILES),
    # shares overlap, or leave a row out
    ("(share + (block < over)) * kWarpRows", "(share + 1) * kWarpRows", TILES),
    ("min(block, over)", "0u", TILES),
    # the bias of the tile before
    ("shift[threadIdx.x] = next_shift;",
     "shift[threadIdx.x] = tile == first ? next_shift : shifts[threadIdx.x];", TILES),
    # one set of sums serves two tiles: the next tile's overwrite what is still read
    ("kPartials == 2 && odd ?", "false ?", TILES),
    ("shifts + (odd ? kTile : 0)", "shifts + (false ? kTile : 0)", TILES),
    ("if (kPartials == 1 && tile != first) __syncthreads();", "", TILES),
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
    ("group * kWarpRows +", "group * kLaneRows +", GROUPS),
    # columns past the last are multiplied
    ("if (valid) u.values = load<8>", "u.values = load<8>", STAGES),
    ("} else if (at < end) {", "} else if (at <= end) {", WIDTHS),
    # a row that does not exist is read
    ("if (b < rows) values = load", "if (b <= rows) values = load", CLEAN),
    # sums are kept in the storage type
    ("sums[r * kBatch + b] = fmaf(weights[r][i], values[i], sums[r * kBatch + b]);",
     "sums[r * kBatch + b] = to_float(from_float<T>(fmaf(weights[r][i], values[i], sums[r * kBatch + b])));", FORMATS),
)  # fmt: skip
