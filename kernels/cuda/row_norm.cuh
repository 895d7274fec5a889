// The norm of one row held in a block's registers: thread t has values (f * kThreads + t) * kVec and the kVec - 1 after, f < kFold
// (folding.py); what lies past n does not count.
#pragma once

#include "common.cuh"

enum NormKind { kNormNone = 0, kNormLayer = 1, kNormRms = 2 };

// x = (x - mean) / sqrt(var + eps) * weight + bias (kNormLayer), x / sqrt(mean(x^2) + eps) * weight + bias (kNormRms), or x itself.
// weight and bias are (n,) float32; a null bias is zero. Every thread of the block calls it.
template <int kNorm, int kThreads, int kFold, int kVec>
__device__ __forceinline__ void normalise_row(
    float (&x)[kFold][kVec], const float* __restrict__ weight, const float* __restrict__ bias, int32_t n, float eps) {
    if constexpr (kNorm == kNormNone) return;
    const int thread = threadIdx.x;
    float mean = 0.0f;
    if constexpr (kNorm == kNormLayer) {
        float sum = 0.0f;
#pragma unroll
        for (int f = 0; f < kFold; ++f) {
            if ((f * kThreads + thread) * kVec >= n) break;
#pragma unroll
            for (int i = 0; i < kVec; ++i) sum += x[f][i];
        }
        mean = block_sum<kThreads>(sum) / n;
    }
    float squares = 0.0f;   // of the centred values, a second pass over registers: the one-pass form loses digits to a large mean
#pragma unroll
    for (int f = 0; f < kFold; ++f) {
        if ((f * kThreads + thread) * kVec >= n) break;
#pragma unroll
        for (int i = 0; i < kVec; ++i) squares += (x[f][i] - mean) * (x[f][i] - mean);
    }
    const float inverse = rsqrtf(block_sum<kThreads>(squares) / n + eps);
#pragma unroll
    for (int f = 0; f < kFold; ++f) {
        const int k = (f * kThreads + thread) * kVec;
        if (k >= n) break;
        float w[kVec], b[kVec] = {};
        load_floats<kVec>(weight + k, w);
        if (bias) load_floats<kVec>(bias + k, b);
#pragma unroll
        for (int i = 0; i < kVec; ++i) x[f][i] = (x[f][i] - mean) * inverse * w[i] + b[i];
    }
}
