// add_norm: the residual stream takes a projection's output, and the next projection's input is its norm.
//
//     residual[r] += scale * (x[r] + bias)          (left out without x)
//     out[r] = norm(residual[r])                    (left out without out)
//
// in:     x             (rows, n) T, a GEMM's output, or null
//         bias          (n,) T, or null
//         norm_weight, norm_bias   (n,) float32; the bias may be null
// inout:  residual      (rows, n) float32, C-contiguous; only read without x
// out:    out           (rows, n) T, or null
// launch: grid (rows), block (kThreads); kFold vectors of 16 / sizeof(T) values a thread (folding.py), no dynamic shared memory
// needs:  n a multiple of 8, rows 16-byte aligned
// moves:  rows * n * (8 + 2 * sizeof(T)) bytes; the norm reads its weights once a row, from L2
// source: EET csrc/core/layer_norm.cu, whose fold doubles (folding.py has the least that fits)

#include "row_norm.cuh"

template <typename T, int kNorm, int kThreads, int kFold>
__global__ __launch_bounds__(kThreads) void add_norm(
    float* residual, const T* x, const T* __restrict__ bias, const float* __restrict__ norm_weight,
    const float* __restrict__ norm_bias, T* __restrict__ out, int32_t n, float scale, float eps) {
    constexpr int kVec = 16 / sizeof(T);
    const int thread = threadIdx.x;
    const int64_t first = static_cast<int64_t>(blockIdx.x) * n;

    pdl_wait();
    float sum[kFold][kVec] = {};
#pragma unroll
    for (int f = 0; f < kFold; ++f) {
        const int k = (f * kThreads + thread) * kVec;
        if (k >= n) break;
        load_floats_fresh<kVec>(residual + first + k, sum[f]);
        if (x) {
            float added[kVec], b[kVec] = {};
            load_floats_fresh<kVec>(x + first + k, added);
            if (bias) load_floats<kVec>(bias + k, b);
#pragma unroll
            for (int i = 0; i < kVec; ++i) sum[f][i] = fmaf(scale, added[i] + b[i], sum[f][i]);
            store_floats<kVec>(residual + first + k, sum[f]);
        }
    }
    normalise_row<kNorm, kThreads>(sum, norm_weight, norm_bias, n, eps);
    pdl_trigger();
    if (out) {
#pragma unroll
        for (int f = 0; f < kFold; ++f) {
            const int k = (f * kThreads + thread) * kVec;
            if (k >= n) break;
            store_floats<kVec>(out + first + k, sum[f]);
        }
    }
}
