// embed: the residual stream's first value.
//
//     residual[r] = norm(scale * tokens[token_ids[r]] + places[position_ids[r]])           (places and norm where the model has them)
//
// in:     token_ids     (rows,) int32, each within the table
//         position_ids  (rows,) int32; unused without `places`
//         tokens        (vocab, n) in kFormat, see common.cuh; `scales` is null for kDense
//         places        (max_positions, n) T, or null
//         norm_weight, norm_bias   (n,) float32; bias for kLayerNorm alone
// out:    residual      (rows, n) float32, C-contiguous
// launch: grid (rows), block (kThreads); kFold vectors of 16 / sizeof(T) values a thread (folding.py), no dynamic shared memory
// needs:  n a multiple of 8 (of 32 for quantised tables), rows 16-byte aligned
// moves:  rows * n * (sizeof(T) * (1 + has places) + 4) bytes; the norm reads its n weights once a row, from L2
// source: EET csrc/core/embedding_kernel.cu gathers and adds; scale and norm are folded in here

#include "common.cuh"

enum EmbedNorm { kNoNorm = 0, kLayerNorm = 1, kRmsNorm = 2 };

template <typename T, int kFormat, int kNorm, int kThreads, int kFold>
__global__ __launch_bounds__(kThreads) void embed(
    const int32_t* token_ids, const int32_t* position_ids, const void* __restrict__ tokens,
    const half* __restrict__ scales, const T* __restrict__ places, const float* __restrict__ norm_weight,
    const float* __restrict__ norm_bias, float* __restrict__ residual, int32_t n, float scale, float eps) {
    constexpr int kVec = 16 / sizeof(T);
    const int64_t row = blockIdx.x;
    const int thread = threadIdx.x;
    const Weights<T, kFormat> table = {tokens, scales, n};

    pdl_wait();
    const int32_t token = load_fresh(token_ids + row);
    float x[kFold][kVec];
    float sum = 0.0f;
#pragma unroll
    for (int f = 0; f < kFold; ++f) {
        const int k = (f * kThreads + thread) * kVec;
        if (k >= n) break;
        load_weights(table, token, k, x[f]);
        float p[kVec] = {};
        if (places) load_floats<kVec>(places + static_cast<int64_t>(load_fresh(position_ids + row)) * n + k, p);
#pragma unroll
        for (int i = 0; i < kVec; ++i) {
            x[f][i] = fmaf(scale, x[f][i], p[i]);
            sum += kNorm == kRmsNorm ? x[f][i] * x[f][i] : x[f][i];
        }
    }

    float mean = 0.0f, inverse = 1.0f;
    if constexpr (kNorm == kRmsNorm) inverse = rsqrtf(block_sum<kThreads>(sum) / n + eps);
    if constexpr (kNorm == kLayerNorm) {
        mean = block_sum<kThreads>(sum) / n;
        float squares = 0.0f;   // a second pass over registers: the one-pass form loses digits when the mean is large
#pragma unroll
        for (int f = 0; f < kFold; ++f) {
            if ((f * kThreads + thread) * kVec >= n) break;
#pragma unroll
            for (int i = 0; i < kVec; ++i) squares += (x[f][i] - mean) * (x[f][i] - mean);
        }
        inverse = rsqrtf(block_sum<kThreads>(squares) / n + eps);
    }
    pdl_trigger();

#pragma unroll
    for (int f = 0; f < kFold; ++f) {
        const int k = (f * kThreads + thread) * kVec;
        if (k >= n) break;
        if constexpr (kNorm != kNoNorm) {
            float weight[kVec], bias[kVec] = {};
            load_floats<kVec>(norm_weight + k, weight);
            if constexpr (kNorm == kLayerNorm) load_floats<kVec>(norm_bias + k, bias);
#pragma unroll
            for (int i = 0; i < kVec; ++i) x[f][i] = (x[f][i] - mean) * inverse * weight[i] + bias[i];
        }
        store_floats<kVec>(residual + row * n + k, x[f]);
    }
}
