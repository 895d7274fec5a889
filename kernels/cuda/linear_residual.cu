// linear_residual: the projection that ends a block, for up to 16 rows.
//
//     residual[r][n] += scale * (x[r] . W[n] + bias[n])          (with `residual`)
//     product[r][n]   = scale * (x[r] . W[n] + bias[n])          (with `product`: families that normalise it before they add it)
//
// in:     x             (rows, k) T, rows <= kBatch
//         weights       (n, k) in kFormat, see common.cuh; `scales` is null for kDense
//         bias          (n,) T, or null
// out:    residual      (rows, n) float32, read and written, or null
//         product       (rows, n) T, or null; one of the two is given
// launch: grid (ceil(n / kTile)), block (32 kGroups kSplit), dynamic shared memory for kBatch rows of x (gemv.py)
// needs:  k a multiple of 8 (of 32 for quantised weights); rows 16-byte aligned
// moves:  the weights once + rows * (k * sizeof(T) + 8 n) bytes (sizeof(T) n instead of 8 n for the product); x again for each block, from L2
// source: EET csrc/op/attention.cpp and ffn.cpp: a cuBLAS GEMM, then add_bias_residual; split K and fixed order as in llama.cpp's mmvf.cu

#include "gemv.cuh"

template <typename T, int kFormat, int kBatch, int kGroups, int kSplit>
__global__ __launch_bounds__(32 * kGroups * kSplit, Gemv<T, kFormat, kBatch, kGroups, kSplit>::kMinBlocks) void linear_residual(
    const T* __restrict__ x, const void* __restrict__ weights, const half* __restrict__ scales, const T* __restrict__ bias,
    float* __restrict__ residual, T* __restrict__ product, int32_t rows, int32_t n, int32_t k, float scale) {
    using Product = Gemv<T, kFormat, kBatch, kGroups, kSplit>;
    constexpr int kThreads = Product::kThreads, kTile = Product::kTile;
    DYN_SMEM(T, shared);
    const int first = blockIdx.x * kTile;

    Product gemv;
    if (!kPrefetch) pdl_wait();
    gemv.begin(Weights<T, kFormat>{weights, scales, k}, [=](int i) { return min(first + i, n - 1); });
    if (kPrefetch) pdl_wait();
    pdl_trigger();
    const float* sums = gemv.run(shared, [=](const Stage<T>& stage, int from, int end) {
        stage_rows<T, kBatch, kThreads>(stage, x, rows, k, from, end);
    });

    for (int item = threadIdx.x; item < kTile * rows; item += kThreads) {
        const int i = item % kTile, b = item / kTile;
        if (first + i >= n) continue;
        const float value = scale * (Product::result(sums, i, b) + (bias ? to_float(bias[first + i]) : 0.0f));
        const int64_t at = static_cast<int64_t>(b) * n + first + i;
        if (residual) residual[at] += value;
        else product[at] = from_float<T>(value);
    }
}
