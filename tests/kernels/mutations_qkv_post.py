"""Faults planted in kernels/cuda/qkv_post.cu, each with a test that must fail."""

from __future__ import annotations

SCATTER = "tests/kernels/test_qkv_post.py::test_qkv_post_rotates_and_scatters"
PACKING = "tests/kernels/test_qkv_post.py::test_qkv_post_of_any_packing"
PARTIAL = "tests/kernels/test_qkv_post.py::test_qkv_post_turns_part_of_a_head"
NORMS = "tests/kernels/test_qkv_post.py::test_qkv_post_normalises_q_and_k"

MUTATIONS = (
    # the wrong sequence: a row at its sequence's start belongs to the one before
    ("if (row_starts[middle] <= r) low = middle;", "if (row_starts[middle] < r) low = middle;", SCATTER),
    # the last sequence is never found
    ("int low = 0, high = batch - 1;", "int low = 0, high = max(batch - 2, 0);", SCATTER),
    # row_starts is not subtracted
    ("cache_starts[low] + r - row_starts[low]", "cache_starts[low] + r", SCATTER),
    # the slots filled before are those of the first sequence
    ("cache_starts[low] + r - row_starts[low]", "cache_starts[0] + r - row_starts[low]", SCATTER),
    # the first sequence's row of the cache
    ("cache_row = cache_rows[low]", "cache_row = cache_rows[0]", SCATTER),
    # k and v change places
    ("(is_v ? values : keys)", "(is_v ? keys : values)", SCATTER),
    # slot and head strides are swapped
    ("* max_context + slot) * head_dim", "+ slot * num_kv_heads + 0 * max_context) * head_dim", SCATTER),
    # the last head is skipped
    ("head < num_heads + 2 * num_kv_heads;", "head < num_heads + 2 * num_kv_heads - 1;", SCATTER),
    # v is rotated too
    ("const bool turns = !is_v && 2 * p < rotary_dim;", "const bool turns = 2 * p < rotary_dim;", SCATTER),
    # the angle turns the other way
    ("x[i] * cosines[p] - y[i] * sines[p]", "x[i] * cosines[p] + y[i] * sines[p]", SCATTER),
    # the barrier after the angles is dropped
    ("    }\n    __syncthreads();\n\n    for (int head", "    }\n\n    for (int head", SCATTER),
    # elements past rotary_dim turn
    ("const bool turns = !is_v && 2 * p < rotary_dim;", "const bool turns = !is_v && 2 * p <= rotary_dim;", PARTIAL),
    # the bias of k is that of q
    ("bias ? to_float(bias[i]) : 0.0f", "bias ? to_float(bias[i % 64]) : 0.0f", PARTIAL),
    # the position is the first row's
    ("static_cast<float>(positions[r])", "static_cast<float>(positions[0])", PACKING),
    # a second pair of every lane is left out
    ("const bool inside = 2 * p < head_dim;", "const bool inside = 2 * p < min(head_dim, 64);", SCATTER),
    # the norm divides by the pairs and not by the elements
    (
        "inverse = rsqrtf(warp_sum(squares) / head_dim + eps);",
        "inverse = rsqrtf(warp_sum(squares) / head_dim * 2 + eps);",
        NORMS,
    ),
    # lanes past the head count as zeros that differ from the mean
    ("squares += inside ? ", "squares += inside || true ? ", NORMS),
    # q and k change weights
    ("const float* weight = is_q ? q_weight : k_weight;", "const float* weight = is_q ? k_weight : q_weight;", NORMS),
    # the bias of the norm is ignored
    ("(shift ? shift[at + second] : 0.0f)", "0.0f", NORMS),
    # k's whole norm takes q's statistics
    (
        "float mean = is_q ? q_mean : k_mean, inverse = is_q ? q_inverse : k_inverse;",
        "float mean = q_mean, inverse = q_inverse;",
        NORMS,
    ),
)
