"""Faults planted in kernels/cuda/gemv.cuh, each with a test that must fail."""

FILE = "gemv.cuh"

WIDTHS = "tests/kernels/test_linear_residual.py::test_linear_residual_takes_every_width"
FORMATS = "tests/kernels/test_linear_residual.py::test_linear_residual_reads_every_format"
STAGES = "tests/kernels/test_linear_residual.py::test_linear_residual_takes_16_rows_in_stages"
TILES = "tests/kernels/test_linear_residual.py::test_linear_residual_walks_through_tiles"
GROUPS = "tests/kernels/test_linear_residual.py::test_linear_residual_gives_a_block_more_rows_where_there_are_many"
CLEAN = "tests/kernels/test_linear_residual.py::test_linear_residual_is_clean_in_every_mode"

WAVES = "tests/kernels/test_gates.py::test_decode_takes_one_wave_with_enough_under_way[gpt2-float16-dense-1]"
RULES = "tests/kernels/test_gates.py::test_machine_code_keeps_the_rules[smollm2-135m-float16-dense-sm_90]"

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
    # staged rows overlap
    ("values + b * stride +", "values + b * (stride / 2) +", FORMATS),
    # fragments of the tensor cores in the wrong order
    ("a[i][1] = high[2 * i], a[i][2] = low[2 * i + 1]", "a[i][2] = high[2 * i], a[i][1] = low[2 * i + 1]", STAGES),
    ("{{u.words[0], u.words[1]},", "{{u.words[1], u.words[0]},", STAGES),
    ("lane_id() % 4 * 2 + i % 2", "lane_id() % 4 + i % 2 * 4", STAGES),
    ("lane_id() / 4 + 8 * r", "lane_id() / 4 + 4 * r", STAGES),
    # a group takes the weight rows of another
    ("group * kWarpRows +", "group * kLaneRows +", GROUPS),
    # the sums of a block are scaled by its neighbour's scale
    ("now[r].scale[c].v[0]", "now[r].scale[1 - c].v[0]", FORMATS),
    # the minimum of Q4_1 is ignored
    ("totals[n][2 * r + c], sums[i]", "0.0f, sums[i]", FORMATS),
    # a lane multiplies what lies in another block
    ("column % kBlocks == own_block", "column % kBlocks == 0", FORMATS),
    # half the blocks are left out
    ("warp_sum<kBlocks / 2>(sums[i])", "sums[i]", FORMATS),
    # two lanes store one sum
    ("b < kBatch && lane_id() % (kBlocks / 2) == 0", "b < kBatch", CLEAN),
    # columns past the last are multiplied
    ("valid ? x.unit(b, k) : x.zeros()", "x.unit(b, k)", STAGES),
    ("} else if (at < end) {", "} else if (at <= end) {", WIDTHS),
    # a row that does not exist is read
    ("if (b < rows) values = load", "if (b <= rows) values = load", CLEAN),
    # sums are kept in the storage type
    ("sums[r * kBatch + b] = fmaf(weights[r][i], values[i], sums[r * kBatch + b]);",
     "sums[r * kBatch + b] = to_float(from_float<T>(fmaf(weights[r][i], values[i], sums[r * kBatch + b])));", FORMATS),
    # registers for one block less than the launch rule counts on: the last blocks are a wave of their own
    ("kLeast = 80;", "kLeast = 128;", WAVES),
    # a step's weights are asked for after the step before is multiplied
    ("fetch(next, next_to);\n                    multiply(now, x, k - from, to - from);",
     "multiply(now, x, k - from, to - from);\n                    fetch(next, next_to);", RULES),
)  # fmt: skip
