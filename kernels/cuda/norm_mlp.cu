// norm_mlp: an MLP's hidden row from the residual stream, for up to 16 rows; gate and up in one pass over their weights.
//
//     y[r] = norm(residual[r]) W^T + bias
//     hidden[r][i] = act(y[r][i])                                  (plain)
//     hidden[r][i] = act(y[r][2i]) * y[r][2i + 1]                  (gated: row 2i of W is gate i, row 2i + 1 is up i)
//
// in:     residual      (rows, k) float32, rows <= kBatch
//         norm_weight, norm_bias   (k,) float32; both null for kNormNone, the bias may be null
//         weights       (n, k) in kFormat, see common.cuh; `scales` is null for kDense
//         bias          (n,) T, or null
// out:    hidden        (rows, n), gated (rows, n / 2), T
// launch: grid (ceil(n / kTile)), block (32 kGroups kSplit), dynamic shared memory for kBatch normalised rows (gemv.py)
// needs:  k a multiple of 8 (of 32 for quantised weights), n even when gated; rows 16-byte aligned
// moves:  the weights once + rows * (4 k + n * sizeof(T)) bytes (n / 2 when gated); the residual again for each block, from L2
// source: EET csrc/op/ffn.cpp: layer_norm, a cuBLAS GEMM, add_bias_act, and a GEMM more for the gate; the norm inside the
//         projection as in MegaQwen's decode kernels

#include "activate.cuh"
#include "normed_rows.cuh"

template <typename T, int kFormat, int kBatch, int kGroups, int kSplit, int kNorm, bool kHeld, int kActivation, bool kGated>
__global__ __launch_bounds__(32 * kGroups * kSplit, Gemv<T, kFormat, kBatch, kGroups, kSplit>::kMinBlocks) void norm_mlp(
    const float* residual, const float* __restrict__ norm_weight, const float* __restrict__ norm_bias,
    const void* __restrict__ weights, const half* __restrict__ scales, const T* __restrict__ bias, T* __restrict__ hidden,
    int32_t rows, int32_t n, int32_t k, float eps) {
    using Product = Gemv<T, kFormat, kBatch, kGroups, kSplit>;
    constexpr int kThreads = Product::kThreads, kPer = kGated ? 2 : 1;
    DYN_SMEM(T, shared);
    const auto row_of = [=](int v) { return min(v, n - 1); };
    NormedRows<T, kNorm, kBatch, kThreads, kHeld> normed(residual, nullptr, norm_weight, norm_bias, rows, k, eps);

    Product gemv;
    if (!kPrefetch) pdl_wait();
    gemv.begin(Weights<T, kFormat>{weights, scales, k}, bias, n, row_of);
    normed.begin();
    const int end = min(n, gemv.last);

    if (kPrefetch) pdl_wait();
    pdl_trigger();
    normed.hold();
    normed.measure();
    gemv.run(
        shared, row_of, [&](const Stage<T>& stage, int from, int to) { normed.stage(stage, from, to); }, [](int) {},
        [&](int tile, const typename Product::Sums& sum) {
            Product::template for_each_item<kPer>(tile, end, rows, [&](int, int i, int row, int b) {
                float out = activate<kActivation>(sum(i, b));
                if constexpr (kGated) out *= sum(i + 1, b);
                hidden[(static_cast<int64_t>(b) * n + row) / kPer] = from_float<T>(out);
            });
        });
}
