"""Faults planted in kernels/cuda/sample.cu, each with the test that must notice it: find, replace, test."""

from __future__ import annotations

_TEST = "tests/kernels/test_sample.py::test_sample_"
_DRAWS = _TEST + "draws_what_the_definition_draws"
_NOT_FINITE = _TEST + "draws_nothing_where_the_best_is_not_finite"
_CLEAN = _TEST + "is_clean_in_every_mode"
_STATE = _TEST + "generation_advances_until_stop_tokens"

MUTATIONS = (
    # what is not a number is seen
    ("descending <= 0x007FFFFFu", "descending < 0x007FFFFFu", _NOT_FINITE),
    ("descending >= 0xFF800000u", "descending > 0xFF800000u", _NOT_FINITE),
    ("if (!(fabsf(row.top) < __int_as_float(0x7f800000))) {", "if (false) {", _NOT_FINITE),
    ("if (token == kNotFinite) finished[row] = 1;", "", _NOT_FINITE),
    # filters
    ("top_k < vocab ? top_k : 0", "top_k < vocab - 1 ? top_k : 0", _DRAWS),
    ("filters.top_k ? 0 : row.mass(x)", "0", _DRAWS),
    ("if (filters.top_p < 1.0) {", "if (false) {", _DRAWS),
    ("row.step(row.at(logit)) <= found.at", "row.step(row.at(logit)) < found.at", _DRAWS),
    # more survivors than shared memory holds
    ("found.through <= kNear ? near", "true ? near", _TEST + "keeps_more_than_shared_memory_holds"),
    # blocks of a row: a share is read twice or not at all, sums stay for the next launch, or are read too early
    ("to = min(vocab, from + share)", "to = vocab", _DRAWS),
    ("(vocab + blocks - 1) / blocks", "vocab / blocks", _DRAWS),
    ("shared.classes.words[c] = 0;", "", _DRAWS),
    ("shared.firsts[blockIdx.x] = first;", "shared.firsts[0] = first;", _DRAWS),
    (
        "if (!is_last_block(shared.counter, gridDim.x)) return false;",
        "if (blockIdx.x + 1 < gridDim.x) return false;",
        _CLEAN,
    ),
    ("if (block && greedy && best_logits) return;", "", _CLEAN),
    # the noise
    ("make_uint4(id, step, request_row, 0)", "make_uint4(id, step, request_row & 1, 0)", _DRAWS),
    ("make_uint4(id, step, request_row, 0)", "make_uint4(id, request_row, step, 0)", _DRAWS),
    ("words.x >> 9", "words.x >> 8", _DRAWS),
    ("make_uint2(settings[4], settings[5])", "make_uint2(settings[4], 0)", _DRAWS),
    # candidates, state and ring
    ("best_ids + static_cast<int64_t>(row) * num_best", "best_ids", _TEST + "greedy_from_candidates"),
    (
        "for_each<kThreads>(best, 0, num_best, [&]",
        "for_each<kThreads>(best, 0, num_best - 1, [&]",
        _TEST + "greedy_from_candidates",
    ),
    ("if (finished[row]) {", "if (false) {", _STATE),
    ("i < num_stops; ++i", "i < num_stops - 1; ++i", _STATE),
    ("positions[row] += 1;", "positions[row] += token % 2;", _STATE),
    ("steps[row] += 1;", "", _STATE),
    ("sequences[row] = sequence + 1;", "", _STATE),
    ("(sequence % ring_size)", "(sequence % (ring_size + 1))", _STATE),
    ("* gridDim.y + row) * 2,", "* gridDim.y) * 2,", _STATE),
    ("token, sequence + 1);", "token, sequence);", _STATE),
    # barriers
    ("    __syncthreads();\n    const int n = found.through;", "    const int n = found.through;", _CLEAN),
    ("    __syncthreads();\n    if (gridDim.x == 1) return true;", "    if (gridDim.x == 1) return true;", _CLEAN),
)
