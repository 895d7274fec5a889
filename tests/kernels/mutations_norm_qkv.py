"""Faults planted in kernels/cuda/norm_qkv.cu, each with a test that must fail."""

RAGGED = "tests/kernels/test_norm_qkv.py::test_norm_qkv_puts_ragged_rows_into_their_slots"
SHAPES = "tests/kernels/test_norm_qkv.py::test_norm_qkv_takes_every_shape_of_heads"
PARTIAL = "tests/kernels/test_norm_qkv.py::test_norm_qkv_rotates_the_leading_elements_alone"
NORMS = "tests/kernels/test_norm_qkv.py::test_norm_qkv_normalises_q_and_k"
CLEAN = "tests/kernels/test_norm_qkv.py::test_norm_qkv_is_clean_in_every_mode"

MUTATIONS = (
    # the wrong sequence: a row at its sequence's start belongs to the one before
    ("b = row_starts[i] <= r ? i : b;", "b = row_starts[i] < r ? i : b;", RAGGED),
    # the last sequence is never found
    ("for (int i = 1; i < batch; ++i) b", "for (int i = 1; i < batch - 1; ++i) b", RAGGED),
    # row_starts is not subtracted
    ("slot = cache_starts[b] + r - row_starts[b];", "slot = cache_starts[b] + r;", RAGGED),
    # the slots filled before are forgotten
    ("slot = cache_starts[b] + r - row_starts[b];", "slot = r - row_starts[b];", RAGGED),
    # the sequence's number and not its row of the cache
    ("(cache_rows[b] * static_cast<int64_t>(num_kv_heads) + kv_head)",
     "(b * static_cast<int64_t>(num_kv_heads) + kv_head)", RAGGED),
    # k and v change places
    ("(is_v ? values : keys)", "(is_v ? keys : values)", RAGGED),
    # every KV head goes to the first one's slots
    ("(head - num_heads) % num_kv_heads", "(head - num_heads) % num_kv_heads * 0", RAGGED),
    # v is rotated too
    ("if (!is_v && 2 * p < rotary_dim) {", "if (2 * p < rotary_dim) {", RAGGED),
    # one pair too many turns
    ("if (!is_v && 2 * p < rotary_dim) {", "if (!is_v && 2 * p <= rotary_dim) {", PARTIAL),
    # the rotation turns the other way
    ("turned = x * cosine - y * sine", "turned = x * cosine + y * sine", RAGGED),
    # y is rotated by an x already turned
    ("y = y * cosine + x * sine;\n            x = turned;",
     "x = turned;\n            y = y * cosine + x * sine;", RAGGED),
    # positions count from the pass and not from the sequence
    ("static_cast<float>(positions[r])", "static_cast<float>(r)", RAGGED),
    # the bias of the pair's first element serves both
    ("y += to_float(bias[head * head_dim + second]);", "y += to_float(bias[head * head_dim + first]);", SHAPES),
    # heads are counted without v
    ("heads = num_heads + 2 * num_kv_heads;", "heads = num_heads + num_kv_heads;", RAGGED),
    # the last row is left out
    ("item < kPairs * rows; item += kThreads", "item < kPairs * (rows - 1); item += kThreads", RAGGED),
    # q's weights for k
    ("is_q ? q_weight : k_weight", "q_weight", NORMS),
    # row 0's values for every row
    ("workspace + r * stride +", "workspace +", NORMS),
    # the mean is not subtracted
    ("return (x[i] - mean) * inverse * weight[i]", "return x[i] * inverse * weight[i]", NORMS),
    # the last block of a head is not waited for
    ("members * parts))", "members * parts - 1))", NORMS),
    # a head's last part is not computed
    ("(pairs + kPairs - 1) / kPairs", "pairs / kPairs", NORMS),
    # pairs past the head's last
    ("p >= pairs) continue;", "p > pairs) continue;", NORMS),
    # weight rows past the last are read
    ("min(p, pairs - 1)", "p", CLEAN),
    # every block finishes, with whatever is there
    ("if (!is_last_block(counters + group, members * parts)) return;",
     "is_last_block(counters + group, members * parts);", CLEAN),
)  # fmt: skip
