// norm_lm_head: logits of the rows that want them, up to 16, and each block's best token.
//
//     logits[r][v] = cap * tanh(z / cap) or z,   z = scale * (norm(residual[wanted[r]]) . W[v] + bias[v])
//
// Candidates: block c covers tokens c kTile .. c kTile + kTile - 1 (the last block fewer), and
//     best_logits[r][c] = the highest of its logits,   best_ids[r][c] = its token, the lowest id among equals.
// So `sample` finds the greedy token in blocks values instead of the vocabulary; and as no token of a block exceeds its best,
// the k-th highest best_logits is a lower bound of the k-th highest logit: top-k opens only the blocks that reach it.
//
// in:     residual      (any, k) float32
//         wanted        (rows,) int32, rows of the residual, rows <= kBatch
//         norm_weight, norm_bias   (k,) float32; the bias may be null
//         weights       (vocab, k) in kFormat, see common.cuh; `scales` is null for kDense
//         bias          (vocab,) T, or null
// out:    logits        (rows, vocab) float32, or null
//         best_logits   (rows, blocks) float32;  best_ids (rows, blocks) int32, or both null
// launch: grid (blocks = ceil(vocab / kTile)), block (32 kGroups kSplit), dynamic shared memory for kBatch normalised rows (gemv.py)
// needs:  k a multiple of 8 (of 32 for quantised weights); rows 16-byte aligned; cap 0 for none
// moves:  the weights once + rows * 4 * (k + vocab + 2 blocks) bytes; the residual again for each block, from L2
// source: EET leaves the head to torch: layer norm, cuBLAS, then transformers' argmax over the vocabulary

#include "normed_rows.cuh"

template <typename T, int kFormat, int kBatch, int kGroups, int kSplit, int kNorm>
__global__ __launch_bounds__(32 * kGroups * kSplit, Gemv<T, kFormat, kBatch, kGroups, kSplit>::kMinBlocks) void norm_lm_head(
    const float* __restrict__ residual, const int32_t* __restrict__ wanted, const float* __restrict__ norm_weight,
    const float* __restrict__ norm_bias, const void* __restrict__ weights, const half* __restrict__ scales,
    const T* __restrict__ bias, float* __restrict__ logits, float* __restrict__ best_logits, int32_t* __restrict__ best_ids,
    int32_t rows, int32_t vocab, int32_t k, float scale, float cap, float eps) {
    using Product = Gemv<T, kFormat, kBatch, kGroups, kSplit>;
    constexpr int kThreads = Product::kThreads, kTile = Product::kTile;
    DYN_SMEM(T, shared);
    const int first = blockIdx.x * kTile;

    Product gemv;
    if (!kPrefetch) pdl_wait();
    gemv.begin(Weights<T, kFormat>{weights, scales, k}, [=](int i) { return min(first + i, vocab - 1); });
    if (kPrefetch) pdl_wait();
    pdl_trigger();
    NormedRows<T, kNorm, kBatch, kThreads> normed = {residual, wanted, norm_weight, norm_bias, rows, k, eps, nullptr};
    normed.measure();
    float* sums = gemv.run(shared, [&](const Stage<T>& stage, int from, int end) { normed.stage(stage, from, end); });

    const int count = min(kTile, vocab - first);
    for (int item = threadIdx.x; item < kTile * rows; item += kThreads) {
        const int i = item % kTile, b = item / kTile;
        if (i >= count) continue;
        float z = scale * (Product::result(sums, i, b) + (bias ? to_float(bias[first + i]) : 0.0f));
        if (cap > 0.0f) z = cap * tanhf(z / cap);
        if (logits) logits[static_cast<int64_t>(b) * vocab + first + i] = z;
        sums[i * kBatch + b] = z;   // over the first split's sum, which this thread has read
    }
    if (!best_logits) return;
    __syncthreads();
    for (int b = warp_id(); b < rows; b += kThreads / kWarp) {
        int best = lane_id();
        float highest = best < count ? sums[best * kBatch + b] : -__int_as_float(0x7F800000);
        for (int i = best + kWarp; i < count; i += kWarp) {
            const float z = sums[i * kBatch + b];
            if (z > highest || z != z) highest = z, best = i;   // NaN wins, so that `sample` sees it
        }
#pragma unroll
        for (int offset = kWarp / 2; offset > 0; offset /= 2) {
            const float z = __shfl_xor_sync(kFullMask, highest, offset);
            const int i = __shfl_xor_sync(kFullMask, best, offset);
            if (z > highest || z != z || (z == highest && i < best)) highest = z, best = i;
        }
        if (lane_id() == 0) {
            const int64_t at = static_cast<int64_t>(b) * gridDim.x + blockIdx.x;
            best_logits[at] = highest;
            best_ids[at] = first + best;
        }
    }
}
