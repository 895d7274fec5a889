// norm_lm_head: logits of the rows that want them, up to 16, and each block's best token.
//
//     logits[r][v] = cap * tanh(z / cap) or z,   z = scale * (norm(residual[wanted[r]]) . W[v] + bias[v])
//
// Candidates: each block covers an equal, contiguous share of the tokens (gemv.cuh), and
//     best_logits[r][c] = the highest of block c's logits,   best_ids[r][c] = its token, the lowest id among equals.
// So `sample` finds the greedy token in blocks values instead of the vocabulary; and as each is a logit of its own, the k-th highest
// best_logits is a lower bound of the k-th highest logit.
//
// in:     residual      (any, k) float32
//         wanted        (rows,) int32, rows of the residual, rows <= kBatch
//         norm_weight, norm_bias   (k,) float32; the bias may be null
//         weights       (vocab, k) in kFormat, see common.cuh; `scales` is null for kDense
//         bias          (vocab,) T, or null
// out:    logits        (rows, vocab) float32, or null
//         best_logits   (rows, blocks) float32;  best_ids (rows, blocks) int32, or both null
// launch: grid (blocks), block (32 kGroups kSplit), dynamic shared memory for kBatch normalised rows (gemv.py)
// needs:  k a multiple of 8 (of 32 for quantised weights); rows 16-byte aligned; cap 0 for none
// moves:  the weights once + rows * 4 * (k + vocab + 2 blocks) bytes; the residual again for each block, from L2
// source: EET leaves the head to torch: layer norm, cuBLAS, then transformers' argmax over the vocabulary

#include "normed_rows.cuh"

// Ranks as `sample` does: a NaN first, so that it is seen, then the higher value, then the lower id.
__device__ __forceinline__ void keep_better(float& value, int& id, float other_value, int other_id) {
    const bool nan = value != value, other_nan = other_value != other_value;
    const bool higher = nan == other_nan && (other_value > value || ((nan || other_value == value) && other_id < id));
    if ((other_nan && !nan) || higher) value = other_value, id = other_id;
}

template <typename T, int kFormat, int kBatch, int kGroups, int kSplit, int kNorm, bool kHeld>
__global__ __launch_bounds__(32 * kGroups * kSplit, Gemv<T, kFormat, kBatch, kGroups, kSplit>::kMinBlocks) void norm_lm_head(
    const float* residual, const int32_t* wanted, const float* __restrict__ norm_weight, const float* __restrict__ norm_bias,
    const void* __restrict__ weights, const half* __restrict__ scales, const T* __restrict__ bias, float* __restrict__ logits,
    float* __restrict__ best_logits, int32_t* __restrict__ best_ids, int32_t rows, int32_t vocab, int32_t k, float scale, float cap,
    float eps) {
    using Product = Gemv<T, kFormat, kBatch, kGroups, kSplit>;
    constexpr int kThreads = Product::kThreads, kTile = Product::kTile, kItems = Product::template kItems<>;
    DYN_SMEM(T, shared);
    const auto row_of = [=](int v) { return min(v, vocab - 1); };
    NormedRows<T, kNorm, kBatch, kThreads, kHeld> normed(residual, wanted, norm_weight, norm_bias, rows, k, eps);

    Product gemv;
    if (!kPrefetch) pdl_wait();
    gemv.begin(Weights<T, kFormat>{weights, scales, k}, bias, vocab, row_of);
    normed.begin();
    const int end = min(vocab, gemv.last);

    // The best of the logits that this thread finishes: item j is of one activation row in every tile.
    float highest[kItems];
    int best[kItems];
#pragma unroll
    for (int j = 0; j < kItems; ++j) highest[j] = -__int_as_float(0x7F800000), best[j] = 0x7FFFFFFF;
    if (kPrefetch) pdl_wait();
    pdl_trigger();
    normed.hold();
    normed.measure();
    gemv.run(
        shared, row_of, [&](const Stage<T>& stage, int from, int to) { normed.stage(stage, from, to); }, [](int) {},
        [&](int tile, const typename Product::Sums& sum) {
            Product::template for_each_item<1>(tile, end, rows, [&](int j, int i, int row, int b) {
                float z = scale * sum(i, b);
                if (cap > 0.0f) z = cap * tanhf(z / cap);
                if (logits) logits[static_cast<int64_t>(b) * vocab + row] = z;
                keep_better(highest[j], best[j], z, row);
            });
        });
    if (!best_logits) return;

    SMEM(float, values, kTile * kBatch);
    SMEM(int32_t, ids, kTile * kBatch);
#pragma unroll
    for (int j = 0; j < kItems; ++j) {
        const int item = j * kThreads + threadIdx.x;
        if (item < kTile * kBatch) values[item] = highest[j], ids[item] = best[j];
    }
    __syncthreads();
    for (int b = warp_id(); b < rows; b += kThreads / kWarp) {
        float value = -__int_as_float(0x7F800000);
        int id = 0x7FFFFFFF;
        for (int i = lane_id(); i < kTile; i += kWarp) keep_better(value, id, values[b * kTile + i], ids[b * kTile + i]);
#pragma unroll
        for (int offset = kWarp / 2; offset > 0; offset /= 2)
            keep_better(value, id, __shfl_xor_sync(kFullMask, value, offset), __shfl_xor_sync(kFullMask, id, offset));
        if (lane_id() == 0) {
            const int64_t at = static_cast<int64_t>(b) * gridDim.x + blockIdx.x;
            best_logits[at] = value;
            best_ids[at] = id;
        }
    }
}
