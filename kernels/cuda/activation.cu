// activation: the MLP's hidden row from its projection's output.
//
//     out[r][i] = act(x[r][i] + bias[i])                                                       (plain)
//     out[r][i] = act(x[r][2i] + bias[2i]) * (x[r][2i + 1] + bias[2i + 1])                     (gated: gate and up alternate)
//
// in:     x             (rows, n), gated (rows, 2n), T: a GEMM's output
//         bias          (n,), gated (2n,), T, or null
// out:    out           (rows, n) T
// launch: grid (rows, fold), block (kThreads): one vector of 16 / sizeof(T) results a thread (folding.py), no dynamic shared memory
// needs:  n a multiple of 8, rows 16-byte aligned
// moves:  rows * n * sizeof(T) * (2 plain, 3 gated) bytes
// source: EET csrc/core/activation_kernel.cu

#include "activate.cuh"

template <typename T, int kActivation, bool kGated, int kThreads>
__global__ __launch_bounds__(kThreads) void activation(
    const T* x, const T* __restrict__ bias, T* __restrict__ out, int32_t n) {
    constexpr int kVec = 16 / sizeof(T), kPer = kGated ? 2 : 1;
    const int64_t row = blockIdx.x;
    const int i = static_cast<int>(blockIdx.y * kThreads + threadIdx.x) * kVec;

    pdl_wait();
    if (i >= n) return;
    float in[kPer * kVec], b[kPer * kVec] = {}, result[kVec];
    load_floats_fresh<kPer * kVec>(x + (row * n + i) * kPer, in);
    if (bias) load_floats<kPer * kVec>(bias + i * kPer, b);
#pragma unroll
    for (int j = 0; j < kVec; ++j) {
        result[j] = activate<kActivation>(in[kPer * j] + b[kPer * j]);
        if constexpr (kGated) result[j] *= in[2 * j + 1] + b[2 * j + 1];
    }
    store_floats<kVec>(out + row * n + i, result);
}
