"""Faults planted in kernels/cuda/sample.cu, each with the test that must notice it: find, replace, test."""

from __future__ import annotations

_TEST = "tests/kernels/test_sample.py::test_sample_"
_DRAWS = _TEST + "draws_what_the_definition_draws"
_NOT_FINITE = _TEST + "draws_nothing_where_the_best_is_not_finite"
_STATE = _TEST + "generation_advances_until_stop_tokens"

MUTATIONS = (
    # ranking
    ("__float_as_uint(x + 0.0f)", "__float_as_uint(x)", _DRAWS),
    ("bits & 0x80000000u ? ~bits : bits | 0x80000000u", "bits | 0x80000000u", _DRAWS),
    ("x != x ? 0u : ~ascending", "~ascending", _NOT_FINITE),
    ("descending <= 0x007FFFFFu", "descending < 0x007FFFFFu", _NOT_FINITE),
    ("descending >= 0xFF800000u", "descending > 0xFF800000u", _NOT_FINITE),
    ("if (!(fabsf(row.top) < __int_as_float(0x7f800000))) return kNotFinite;", "", _NOT_FINITE),
    ("if (token == kNotFinite) finished[row] = 1;", "", _NOT_FINITE),
    (
        "rank = min(rank, __shfl_xor_sync(kFullMask, rank, offset))",
        "rank = __shfl_xor_sync(kFullMask, rank, offset)",
        _DRAWS,
    ),
    ("for (int w = 0; w < kWarps; ++w)", "for (int w = 0; w < kWarps - 1; ++w)", _DRAWS),
    ("other <= rank)", "other < rank)", _DRAWS),
    # what the filters keep
    ("return logit / temperature;", "return logit;", _DRAWS),
    ("if (!within.keeps(step, rank)) return;", "", _DRAWS),
    ("if (level > 0 && step != cut.step) return;", "", _DRAWS),
    ("if (level > 1 && rank >> last_shift != cut.rank >> last_shift) return;", "", _DRAWS),
    ("if (lane_id() >= offset) through += lower;", "if (lane_id() > offset) through += lower;", _DRAWS),
    ("through += before;", "through += before & 1;", _DRAWS),
    ("ceil(top_p * whole)", "ceil(top_p * whole) * 1.0001", _TEST + "top_p_of_equals_keeps_the_lower_ids"),
    ("for (; ahead + weights[c] < target; ++c)", "for (; ahead + weights[c] <= target; ++c)", _DRAWS),
    ("exp(static_cast<double>(difference)) * unit", "expf(difference) * unit", _TEST + "top_p_mass_is_exact"),
    ("if (count == 1) break;", "if (count >= 1) break;", _DRAWS),
    ("return within.keeps(cut.step, cut.rank) ? cut : within;", "return cut;", _DRAWS),
    ("top_k < row.vocab)", "top_k < row.vocab - 1)", _DRAWS),
    # the noise
    ("make_uint4(id, step, request_row, 0)", "make_uint4(id, step, request_row & 1, 0)", _DRAWS),
    ("make_uint4(id, step, request_row, 0)", "make_uint4(id, request_row, step, 0)", _DRAWS),
    ("words.x >> 9", "words.x >> 8", _DRAWS),
    ("make_uint2(settings[4], settings[5])", "make_uint2(settings[4], 0)", _DRAWS),
    # candidates, state and ring
    ("best_logits ? best_ids[start + i] : i", "best_logits ? best_ids[i] : i", _TEST + "greedy_from_candidates"),
    (
        "const int count = best_logits ? num_best : vocab;",
        "const int count = best_logits ? num_best - 1 : vocab;",
        _TEST + "greedy_from_candidates",
    ),
    ("if (!finished[row]) {", "{", _STATE),
    ("i < num_stops; ++i", "i < num_stops - 1; ++i", _STATE),
    ("positions[row] += 1;", "positions[row] += token % 2;", _STATE),
    ("steps[row] += 1;", "", _STATE),
    ("sequences[row] = sequence + 1;", "", _STATE),
    ("(sequence % ring_size)", "(sequence % (ring_size + 1))", _STATE),
    ("* gridDim.x + row) * 2;", "* gridDim.x) * 2;", _STATE),
    ("st_system(entry + 1, sequence + 1);", "st_system(entry + 1, sequence);", _STATE),
    # barriers
    (
        "if (threadIdx.x == 0) chosen[0] = -1;\n        __syncthreads();",
        "if (threadIdx.x == 0) chosen[0] = -1;",
        _TEST + "is_clean_in_every_mode",
    ),
    ("count = chosen[1];\n        __syncthreads();", "count = chosen[1];", _TEST + "is_clean_in_every_mode"),
    ("atomicAdd(&counts[at], 1);", "counts[at] += 1;", _TEST + "is_clean_in_every_mode"),
)
