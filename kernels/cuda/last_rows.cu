// last_rows: the rows that get logits, normalised, gathered for the LM head's GEMM.
//
//     out[i] = norm(residual[wanted[i]])
//
// in:     residual      (rows, n) float32, C-contiguous
//         wanted        (wanted,) int32, each below rows
//         norm_weight, norm_bias   (n,) float32; the bias may be null
// out:    out           (wanted, n) T
// launch: grid (wanted), block (kThreads); kFold vectors of 16 / sizeof(T) values a thread (folding.py), no dynamic shared memory
// needs:  n a multiple of 8, rows 16-byte aligned
// moves:  wanted * n * (4 + sizeof(T)) bytes
// source: none; EET runs its final norm and LM head over every row of the prompt

#include "row_norm.cuh"

template <typename T, int kNorm, int kThreads, int kFold>
__global__ __launch_bounds__(kThreads) void last_rows(
    const float* residual, const int32_t* wanted, const float* __restrict__ norm_weight,
    const float* __restrict__ norm_bias, T* __restrict__ out, int32_t n, float eps) {
    constexpr int kVec = 16 / sizeof(T);
    const int thread = threadIdx.x;
    const int64_t target = static_cast<int64_t>(blockIdx.x) * n;

    pdl_wait();
    const int64_t source = static_cast<int64_t>(load_fresh(wanted + blockIdx.x)) * n;
    float x[kFold][kVec] = {};
#pragma unroll
    for (int f = 0; f < kFold; ++f) {
        const int k = (f * kThreads + thread) * kVec;
        if (k >= n) break;
        load_floats_fresh<kVec>(residual + source + k, x[f]);
    }
    normalise_row<kNorm, kThreads>(x, norm_weight, norm_bias, n, eps);
    pdl_trigger();
#pragma unroll
    for (int f = 0; f < kFold; ++f) {
        const int k = (f * kThreads + thread) * kVec;
        if (k >= n) break;
        store_floats<kVec>(out + target + k, x[f]);
    }
}
