"""Faults planted in kernels/cuda/norm_qkv.cu, each with a test that must fail."""

RAGGED = "tests/kernels/test_norm_qkv.py::test_norm_qkv_puts_ragged_rows_into_their_slots"
SHAPES = "tests/kernels/test_norm_qkv.py::test_norm_qkv_takes_every_shape_of_heads"
PARTIAL = "tests/kernels/test_norm_qkv.py::test_norm_qkv_rotates_the_leading_elements_alone"
NORMS = "tests/kernels/test_norm_qkv.py::test_norm_qkv_normalises_q_and_k"
TILES = "tests/kernels/test_norm_qkv.py::test_norm_qkv_walks_through_tiles"
HEADS = "tests/kernels/test_norm_qkv.py::test_norm_qkv_finishes_heads_that_share_a_tile"
ODD = "tests/kernels/test_norm_qkv.py::test_norm_qkv_reads_no_row_past_the_last"
CLEAN = "tests/kernels/test_norm_qkv.py::test_norm_qkv_is_clean_in_every_mode"

MUTATIONS = (
    # the wrong sequence: a row at its sequence's start belongs to the one before
    ("b = load_early(row_starts + i) <= r ? i : b;", "b = load_early(row_starts + i) < r ? i : b;", RAGGED),
    # the last sequence is never found
    ("for (int i = 1; i < batch; ++i) b", "for (int i = 1; i < batch - 1; ++i) b", RAGGED),
    # row_starts is not subtracted
    ("+ r - load_early(row_starts + b);", "+ r;", RAGGED),
    # the slots filled before are forgotten
    ("slot = load_early(cache_starts + b) + r", "slot = r", RAGGED),
    # the sequence's number and not its row of the cache
    ("static_cast<int64_t>(load_early(cache_rows + b))", "static_cast<int64_t>(b)", RAGGED),
    # k and v change places
    ("(is_v ? values : keys)", "(is_v ? keys : values)", RAGGED),
    # every KV head goes to the first one's slots
    ("(head - num_heads) % num_kv_heads", "(head - num_heads) % num_kv_heads * 0", RAGGED),
    # v is rotated too
    ("head < num_heads + num_kv_heads && 2 * p < rotary_dim ?", "2 * p < rotary_dim ?", RAGGED),
    # one pair too many turns
    ("&& 2 * p < rotary_dim ?", "&& 2 * p <= rotary_dim ?", PARTIAL),
    # the rotation turns the other way
    ("turned = x * cosine - y * sine", "turned = x * cosine + y * sine", RAGGED),
    # y is rotated by an x already turned
    ("y = y * cosine + x * sine;\n            x = turned;",
     "x = turned;\n            y = y * cosine + x * sine;", RAGGED),
    # positions count from the pass and not from the sequence
    ("return {load_early(positions + r),", "return {r,", RAGGED),
    # the bias of the pair's first element serves both
    ("(v % 2 ? second : first)", "first", SHAPES),
    # heads are counted without v
    ("heads = num_heads + 2 * num_kv_heads,", "heads = num_heads + num_kv_heads,", RAGGED),
    # places of rows are not taken
    ("if (own_row < rows) place = target.place_of(own_row);", "", RAGGED),
    # the place of row 0 serves all
    ("places[b], frequency[j]", "places[0], frequency[j]", RAGGED),
    # frequencies of the first tile serve all
    ("load_frequencies,", "[&](int) { load_frequencies(gemv.first); },", TILES),
    # q's weights for k
    ("is_q ? q_weight : k_weight", "q_weight", NORMS),
    # row 0's values for every row
    ("workspace + r * stride +", "workspace +", NORMS),
    # the mean is not subtracted
    ("return (x[i] - mean) * inverse * weight[i]", "return x[i] * inverse * weight[i]", NORMS),
    # the last pair of a head is not waited for
    ("done, members * pairs))", "done, members * pairs - 1))", NORMS),
    # a tile's pairs are all counted for its first head
    ("min(to, (head + 1) * pairs) - max", "to - max", HEADS),
    # a tile finishes its first head alone
    ("head * pairs < to && head", "head == from / pairs && head", HEADS),
    # weight rows past the last are read
    ("min(v / 2, total - 1)", "v / 2", ODD),
    # every block finishes, with whatever is there
    ("if (is_last_share(counters + group, done, members * pairs))",
     "if (is_last_share(counters + group, done, members * pairs) || true)", CLEAN),
)  # fmt: skip
