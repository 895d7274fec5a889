// The norm of up to 16 rows of the residual stream, recomputed by every block of a projection: cheaper than a launch of its own, as
// the rows come from L2. `measure` takes the statistics, `stage` writes normalised columns into a Gemv's stage.
#pragma once

#include "gemv.cuh"
#include "row_norm.cuh"

template <typename T, int kNorm, int kBatch, int kThreads> struct NormedRows {
    const float* __restrict__ residual;   // (any, n)
    const int32_t* __restrict__ wanted;   // (rows,) rows of the residual, or null for the first `rows`
    const float* __restrict__ weight;     // (n,), null for kNormNone
    const float* __restrict__ bias;       // (n,) or null
    int rows;
    int n;
    float eps;
    const float* statistics;              // shared: kBatch means, then kBatch values of 1 / sqrt(var + eps)

    __device__ __forceinline__ const float* row(int b) const { return residual + static_cast<int64_t>(wanted ? wanted[b] : b) * n; }

    // Every thread of the block calls it; it ends with a barrier.
    __device__ __forceinline__ void measure() {
        if constexpr (kNorm == kNormNone) return;
        SMEM(float, result, 2 * kBatch);
        const int thread = threadIdx.x;
        if constexpr (kNorm == kNormLayer) {
            reduce<false>(result);
            if (thread < kBatch) result[thread] /= n;
        } else {
            if (thread < kBatch) result[thread] = 0.0f;
        }
        __syncthreads();
        statistics = result;
        reduce<true>(result + kBatch);   // of the centred values, a second pass: the one-pass form loses digits to a large mean
        if (thread < kBatch) result[kBatch + thread] = rsqrtf(result[kBatch + thread] / n + eps);
        __syncthreads();
    }

    __device__ __forceinline__ void stage(const Stage<T>& target, int first, int end) const {
        constexpr int kUnit = Stage<T>::kUnit;
        const int units = (end - first) / kUnit;
        for (int item = threadIdx.x; item < kBatch * units; item += kThreads) {
            const int b = item / units, k = item % units * kUnit;
            float x[kUnit] = {};
            if (b < rows) {
                load_floats<kUnit>(row(b) + first + k, x);
                if constexpr (kNorm != kNormNone) {
                    float scale[kUnit], shift[kUnit] = {};
                    load_floats<kUnit>(weight + first + k, scale);
                    if (bias) load_floats<kUnit>(bias + first + k, shift);
#pragma unroll
                    for (int i = 0; i < kUnit; ++i) x[i] = (x[i] - statistics[b]) * statistics[kBatch + b] * scale[i] + shift[i];
                }
            }
            store_floats<kUnit>(target.unit(b, k), x);
        }
    }

private:
    // out[b] = sum over the row of x, or of (x - mean)^2, in thread b < kBatch and for no other before a barrier.
    template <bool kSquares> __device__ __forceinline__ void reduce(float* out) const {
        constexpr int kWarps = kThreads / kWarp;
        SMEM(float, partial, kWarps * kBatch);
        const int thread = threadIdx.x;
        float sums[kBatch] = {};
        for (int k = 4 * thread; k < n; k += 4 * kThreads) {
#pragma unroll
            for (int b = 0; b < kBatch; ++b) {
                if (b >= rows) break;
                float x[4];
                load_floats<4>(row(b) + k, x);
#pragma unroll
                for (int i = 0; i < 4; ++i) sums[b] += kSquares ? (x[i] - statistics[b]) * (x[i] - statistics[b]) : x[i];
            }
        }
#pragma unroll
        for (int b = 0; b < kBatch; ++b) {
            sums[b] = warp_sum(sums[b]);
            if (lane_id() == 0) partial[warp_id() * kBatch + b] = sums[b];
        }
        __syncthreads();
        if (thread < kBatch) {
            float sum = 0.0f;
#pragma unroll
            for (int w = 0; w < kWarps; ++w) sum += partial[w * kBatch + thread];
            out[thread] = sum;
        }
    }
};
