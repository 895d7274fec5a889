// norm_add: a block's output is normalised before it joins the residual stream (Gemma 2 and 3, OLMo-2).
//
//     residual[r] += scale * norm(x[r])
//
// in:     x             (rows, n) T: linear_residual's product
//         norm_weight, norm_bias   (n,) float32; the bias may be null
// out:    residual      (rows, n) float32, C-contiguous, read and written
// launch: grid (rows), block (kThreads); kFold vectors of 16 / sizeof(T) values a thread (folding.py), no dynamic shared memory
// needs:  n a multiple of 8, rows 16-byte aligned
// moves:  rows * n * (8 + sizeof(T)) bytes; the norm reads its weights once a row, from L2
// source: EET has no such family; transformers' Gemma2DecoderLayer, post_attention_layernorm and post_feedforward_layernorm

#include "row_norm.cuh"

template <typename T, int kNorm, int kThreads, int kFold>
__global__ __launch_bounds__(kThreads) void norm_add(
    float* residual, const T* x, const float* __restrict__ norm_weight,
    const float* __restrict__ norm_bias, int32_t n, float scale, float eps) {
    constexpr int kVec = 16 / sizeof(T);
    const int thread = threadIdx.x;
    const int64_t first = static_cast<int64_t>(blockIdx.x) * n;

    pdl_wait();
    pdl_trigger();
    float added[kFold][kVec] = {};
#pragma unroll
    for (int f = 0; f < kFold; ++f) {
        const int k = (f * kThreads + thread) * kVec;
        if (k >= n) break;
        load_floats_fresh<kVec>(x + first + k, added[f]);
    }
    normalise_row<kNorm, kThreads>(added, norm_weight, norm_bias, n, eps);
#pragma unroll
    for (int f = 0; f < kFold; ++f) {
        const int k = (f * kThreads + thread) * kVec;
        if (k >= n) break;
        float sum[kVec];
        load_floats_fresh<kVec>(residual + first + k, sum);
#pragma unroll
        for (int i = 0; i < kVec; ++i) sum[i] = fmaf(scale, added[f][i], sum[i]);
        store_floats<kVec>(residual + first + k, sum);
    }
}
