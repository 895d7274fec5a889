// Rotary embedding turns the elements of a head two by two. source: RoFormer (arXiv 2104.09864); `interleaved` pairs (2i, 2i + 1) as
// GPT-J, the other form (i, i + rotary_dim / 2) as Hugging Face's Llama.
#pragma once

#include "common.cuh"

// The elements of pair p of a head: the two that turn together, or two neighbours at or past rotary_dim, which do not turn.
template <bool kInterleaved> __device__ __forceinline__ void pair_elements(int p, int rotary_dim, int& first, int& second) {
    const bool halves = !kInterleaved && 2 * p < rotary_dim;
    first = halves ? p : 2 * p;
    second = halves ? p + rotary_dim / 2 : 2 * p + 1;
}
