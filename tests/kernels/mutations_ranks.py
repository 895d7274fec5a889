"""Faults planted in kernels/cuda/ranks.cuh, each with the test that must notice it: find, replace, test."""

from __future__ import annotations

_TEST = "tests/kernels/test_sample.py::test_sample_"
_DRAWS = _TEST + "draws_what_the_definition_draws"
_NOT_FINITE = _TEST + "draws_nothing_where_the_best_is_not_finite"
_CLEAN = _TEST + "is_clean_in_every_mode"

MUTATIONS = (
    # ranking
    ("__float_as_uint(x + 0.0f)", "__float_as_uint(x)", _DRAWS),
    ("bits & 0x80000000u ? ~bits : bits | 0x80000000u", "bits | 0x80000000u", _DRAWS),
    ("x != x ? 0u : ~ascending", "~ascending", _NOT_FINITE),
    (
        "rank = min(rank, __shfl_xor_sync(kFullMask, rank, offset))",
        "rank = __shfl_xor_sync(kFullMask, rank, offset)",
        _DRAWS,
    ),
    ("for (int w = 0; w < kWarps; ++w)", "for (int w = 0; w < kWarps - 1; ++w)", _DRAWS),
    ("other <= rank)", "other < rank)", _DRAWS),
    # what the filters keep
    ("return logit / temperature;", "return logit;", _DRAWS),
    ("step != cut.step || !within.keeps(step, rank)", "step != cut.step", _DRAWS),
    ("step != cut.step || !within.keeps(step, rank)", "!within.keeps(step, rank)", _DRAWS),
    ("if (level > 1 && rank >> last_shift != cut.rank >> last_shift) continue;", "", _DRAWS),
    ("if (lane_id() >= offset) through += lower", "if (lane_id() > offset) through += lower", _DRAWS),
    ("through += before;", "through += before & 1;", _DRAWS),
    ("ceil(share * whole)", "ceil(share * whole) * 1.0001", _TEST + "top_p_of_equals_keeps_the_lower_ids"),
    ("for (; ahead + weight(c) < target; ++c)", "for (; ahead + weight(c) <= target; ++c)", _DRAWS),
    ("exp(static_cast<double>(difference)) * unit", "expf(difference) * unit", _TEST + "top_p_mass_is_exact"),
    ("level < kLevels && found.count > 1", "level < kLevels && found.count > 2", _DRAWS),
    ("return within.keeps(cut.step, cut.rank) ? cut : within;", "return cut;", _DRAWS),
    # sums of masses: the carry is lost, or the high words
    ("++high;   // the sum passed 2^32", ";", _TEST + "top_p_mass_is_exact"),
    ("if (high) atomicAdd(words + 2 * kClasses + at, high);", "", _DRAWS),
    # survivors are counted without those of the classes before
    ("passed += histogram.words[c];\n            const int count", "passed += 0;\n            const int count", _DRAWS),
    # barriers
    (
        "if (threadIdx.x == 0) found[0].at = -1;\n    __syncthreads();",
        "if (threadIdx.x == 0) found[0].at = -1;",
        _CLEAN,
    ),
    ("const Found result = found[0];\n    __syncthreads();", "const Found result = found[0];", _CLEAN),
    ("words[c] = 0;\n        __syncthreads();", "words[c] = 0;", _CLEAN),
    ("atomicAdd(words + at, tokens);", "words[at] += tokens;", _CLEAN),
)
