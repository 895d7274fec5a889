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
    const T* x, const void* __restrict__ weights, const half* __restrict__ scales, const T* __restrict__ bias, float* residual,
    T* __restrict__ product, int32_t rows, int32_t n, int32_t k, float scale) {
    using Product = Gemv<T, kFormat, kBatch, kGroups, kSplit>;
    constexpr int kThreads = Product::kThreads, kItems = Product::template kItems<>;
    DYN_SMEM(T, shared);
    const auto row_of = [=](int v) { return min(v, n - 1); };

    Product gemv;
    if (!kPrefetch) pdl_wait();
    gemv.begin(Weights<T, kFormat>{weights, scales, k}, bias, n, row_of);
    const int end = min(n, gemv.last);

    float old[kItems];
    const auto load_residual = [&](int tile) {
        Product::template for_each_item<1>(tile, end, rows, [&](int j, int, int row, int b) {
            old[j] = residual ? load_fresh(residual + static_cast<int64_t>(b) * n + row) : 0.0f;
        });
    };
    if (kPrefetch) pdl_wait();
    pdl_trigger();
    load_residual(gemv.first);
    gemv.run(
        shared, row_of, [=](const Stage<T>& stage, int from, int to) { stage_rows<T, kBatch, kThreads>(stage, x, rows, k, from, to); },
        load_residual, [&](int tile, const typename Product::Sums& sum) {
            Product::template for_each_item<1>(tile, end, rows, [&](int j, int i, int row, int b) {
                const float value = scale * sum(i, b);
                const int64_t at = static_cast<int64_t>(b) * n + row;
                if (residual) residual[at] = old[j] + value;
                else product[at] = from_float<T>(value);
            });
        });
}
