// The norm of up to 16 rows of the residual stream, recomputed by every block of a projection: cheaper than a launch of its own, as
// the rows come from L2. `begin` asks for the norm's weights before the wait, `measure` takes the statistics, `stage` writes normalised
// columns into a Gemv's stage.
//
// With kHeld there are kBatch rows, each no more than a unit of 16 bytes for each thread (n <= kThreads * kUnit), and a row is read once, into registers, as the
// norm's weights are. Mean and squared deviations of what each thread holds are then merged pairwise (Chan, Golub and LeVeque, 1979),
// in one fixed order: one pass as accurate as two. Without kHeld the rows are read again, from L2, for each sum.
#pragma once

#include "gemv.cuh"
#include "row_norm.cuh"

// Count, mean and sum of squared deviations of a set of values.
struct Moments {
    float count, mean, squares;

    __device__ __forceinline__ void merge(float other_count, float other_mean, float other_squares) {
        const float sum = count + other_count, share = sum > 0.0f ? 1.0f / sum : 0.0f;
        const float delta = other_mean - mean;
        mean = (count * mean + other_count * other_mean) * share;
        squares += other_squares + delta * delta * (count * other_count * share);
        count = sum;
    }
};

// Merged over each group of kWidth neighbouring lanes, in every lane.
template <int kWidth = kWarp> __device__ __forceinline__ Moments warp_merge(Moments m) {
#pragma unroll
    for (int offset = kWidth / 2; offset > 0; offset /= 2)
        m.merge(__shfl_xor_sync(kFullMask, m.count, offset), __shfl_xor_sync(kFullMask, m.mean, offset),
                __shfl_xor_sync(kFullMask, m.squares, offset));
    return m;
}

template <typename T, int kNorm, int kBatch, int kThreads, bool kHeld> struct NormedRows {
    static constexpr int kUnit = Stage<T>::kUnit, kWarps = kThreads / kWarp;
    static_assert(!kHeld || kThreads * kUnit * kBatch * static_cast<int>(sizeof(T)) <= kStageBytes, "held rows are staged at once");

    const float* residual;   // (any, n), written by the kernel before
    const int32_t* wanted;   // (rows,) rows of the residual, or null for the first `rows`
    const float* __restrict__ weight;   // (n,), null for kNormNone
    const float* __restrict__ bias;     // (n,) or null
    int rows;
    int n;
    float eps, one_nth;
    float held[kBatch][kUnit], scale[kUnit], shift[kUnit];   // with kHeld
    float means[kBatch], inverses[kBatch];
    const float* statistics;   // shared, without kHeld: kBatch means, then kBatch values of 1 / sqrt(var + eps)

    __device__ __forceinline__ NormedRows(const float* residual, const int32_t* wanted, const float* weight, const float* bias, int rows, int n, float eps)
        : residual(residual), wanted(wanted), weight(weight), bias(bias), rows(rows), n(n), eps(eps), one_nth(1.0f / n) {}

    __device__ __forceinline__ const float* row(int b) const { return residual + static_cast<int64_t>(wanted ? wanted[b] : b) * n; }
    static __device__ __forceinline__ int held_column() { return static_cast<int>(threadIdx.x) * kUnit; }

    // Before the wait: the norm's weights are on their way.
    __device__ __forceinline__ void begin() {
        if constexpr (kHeld && kNorm != kNormNone) {
            const int k = held_column();
#pragma unroll
            for (int i = 0; i < kUnit; ++i) scale[i] = shift[i] = 0.0f;
            if (k < n) {
                load_floats_early<kUnit>(weight + k, scale);
                if (bias) load_floats_early<kUnit>(bias + k, shift);
            }
        } else if constexpr (kNorm != kNormNone) {
            constexpr int kLine = 32;   // floats
            for (int k = threadIdx.x * kLine; k < n; k += kThreads * kLine) {
                prefetch(weight + k);
                if (bias) prefetch(bias + k);
            }
        }
    }

    // After the wait: the rows are on their way.
    __device__ __forceinline__ void hold() {
        if constexpr (kHeld) {
#pragma unroll
            for (int b = 0; b < kBatch; ++b) {
#pragma unroll
                for (int i = 0; i < kUnit; ++i) held[b][i] = 0.0f;
                if (held_column() < n) load_floats_fresh<kUnit>(row(b) + held_column(), held[b]);
            }
        }
    }

    // Every thread of the block calls it.
    __device__ __forceinline__ void measure() {
        if constexpr (kHeld) {
            if constexpr (kNorm == kNormLayer) measure_layer();
            if constexpr (kNorm == kNormRms) measure_rms();
        } else if constexpr (kNorm != kNormNone) {
            measure_again();
        }
    }

    __device__ __forceinline__ void stage(const Stage<T>& target, int first, int end) const {
        if constexpr (kHeld) {
            stage_held(target);
        } else {
            stage_again(target, first, end);
        }
    }

private:
    __device__ __forceinline__ void measure_layer() {
        SMEM(Moments, partial, kWarps * kBatch);
#pragma unroll
        for (int b = 0; b < kBatch; ++b) {
            float sum = 0.0f, squares = 0.0f;
#pragma unroll
            for (int i = 0; i < kUnit; ++i) sum += held[b][i];
            const float mean = sum * (1.0f / kUnit);
#pragma unroll
            for (int i = 0; i < kUnit; ++i) squares += (held[b][i] - mean) * (held[b][i] - mean);
            Moments mine = held_column() < n ? Moments{kUnit, mean, squares} : Moments{0.0f, 0.0f, 0.0f};
            mine = warp_merge(mine);
            if (lane_id() == 0) partial[warp_id() * kBatch + b] = mine;
        }
        __syncthreads();
#pragma unroll
        for (int b = 0; b < kBatch; ++b) {
            const Moments whole = warp_merge<kWarps>(partial[lane_id() % kWarps * kBatch + b]);
            means[b] = whole.mean;
            inverses[b] = rsqrtf(whole.squares * one_nth + eps);
        }
    }

    __device__ __forceinline__ void measure_rms() {
        SMEM(float, partial, kWarps * kBatch);
#pragma unroll
        for (int b = 0; b < kBatch; ++b) {
            float squares = 0.0f;
#pragma unroll
            for (int i = 0; i < kUnit; ++i) squares = fmaf(held[b][i], held[b][i], squares);
            squares = warp_sum(squares);
            if (lane_id() == 0) partial[warp_id() * kBatch + b] = squares;
        }
        __syncthreads();
#pragma unroll
        for (int b = 0; b < kBatch; ++b) {
            means[b] = 0.0f;
            inverses[b] = rsqrtf(warp_sum<kWarps>(partial[lane_id() % kWarps * kBatch + b]) * one_nth + eps);
        }
    }

    __device__ __forceinline__ void stage_held(const Stage<T>& target) const {
        if (held_column() >= n) return;
#pragma unroll
        for (int b = 0; b < kBatch; ++b) {
            float x[kUnit];
#pragma unroll
            for (int i = 0; i < kUnit; ++i) {
                x[i] = held[b][i];
                if (kNorm != kNormNone) x[i] = (x[i] - means[b]) * inverses[b] * scale[i] + shift[i];
            }
            store_floats<kUnit>(target.unit(b, held_column()), x);
        }
    }

    // Without kHeld: two passes over the rows, each centred value from L2 once more.
    __device__ __forceinline__ void measure_again() {
        SMEM(float, result, 2 * kBatch);
        const int thread = threadIdx.x;
        if constexpr (kNorm == kNormLayer) {
            reduce<false>(result);
            if (thread < kBatch) result[thread] *= one_nth;
        } else {
            if (thread < kBatch) result[thread] = 0.0f;
        }
        __syncthreads();
        statistics = result;
        reduce<true>(result + kBatch);
        if (thread < kBatch) result[kBatch + thread] = rsqrtf(result[kBatch + thread] * one_nth + eps);
        __syncthreads();
    }

    __device__ __forceinline__ void stage_again(const Stage<T>& target, int first, int end) const {
        const int units = (end - first) / kUnit;
        for (int item = threadIdx.x; item < kBatch * units; item += kThreads) {
            const int b = item / units, k = item % units * kUnit;
            float x[kUnit] = {};
            if (b < rows) {
                load_floats_fresh<kUnit>(row(b) + first + k, x);
                if constexpr (kNorm != kNormNone) {
                    float w[kUnit], s[kUnit] = {};
                    load_floats<kUnit>(weight + first + k, w);
                    if (bias) load_floats<kUnit>(bias + first + k, s);
#pragma unroll
                    for (int i = 0; i < kUnit; ++i) x[i] = (x[i] - statistics[b]) * statistics[kBatch + b] * w[i] + s[i];
                }
            }
            store_floats<kUnit>(target.unit(b, k), x);
        }
    }

    // out[b] = sum over the row of x, or of (x - mean)^2, in thread b < kBatch and for no other before a barrier.
    template <bool kSquares> __device__ __forceinline__ void reduce(float* out) const {
        SMEM(float, partial, kWarps * kBatch);
        const int thread = threadIdx.x;
        float sums[kBatch] = {};
        for (int k = 4 * thread; k < n; k += 4 * kThreads) {
#pragma unroll
            for (int b = 0; b < kBatch; ++b) {
                if (b >= rows) break;
                float x[4];
                load_floats_fresh<4>(row(b) + k, x);
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
