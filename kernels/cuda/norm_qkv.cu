// norm_qkv: everything of a layer before attention, for up to 16 rows: norm, QKV projection, q/k norm, rotary, KV append.
//
//     q, k, v = split(norm(residual[r]) W^T + bias);  q, k = norm(q), norm(k);  q, k = rotate(q), rotate(k) by positions[r]
//     q_out[r] = q;  keys[row of the cache][.][slot] = k;  values[row of the cache][.][slot] = v
//
// Row r belongs to the sequence b with row_starts[b] <= r < row_starts[b + 1]; its slot is cache_starts[b] + r - row_starts[b], in row
// cache_rows[b] of the cache. Elements at and past rotary_dim are not rotated. The q/k norm is over each head (q_weight (head_dim,)) or,
// with kWholeNorm, over all heads of q, or of k, at once (q_weight (num_heads * head_dim,), k_weight (num_kv_heads * head_dim,)).
//
// A tile holds the weight rows of kTile / 2 pairs of elements, so that a block can rotate what it computed. A q/k norm needs sums over
// more than a tile: blocks leave their values in `workspace`, and the last block of a head (of q or of k, with kWholeNorm) finishes it.
//
// in:     residual      (rows, hidden) float32, rows <= kBatch
//         norm_weight, norm_bias   (hidden,) float32; both null for kNormNone, the bias may be null
//         weights       ((num_heads + 2 num_kv_heads) * head_dim, hidden) in kFormat: all q heads, then k, then v; scales null for kDense
//         bias          (the same rows,) T, or null
//         q_weight, q_bias, k_weight, k_bias   float32, or null: both weights where kHeadNorm is not kNormNone, biases where the model has them
//         frequencies   (rotary_dim / 2,) float32, radians a position; rotary_dim 0 for families without rotary
//         positions     (rows,) int32
//         row_starts    (batch + 1,) int32;  cache_rows, cache_starts   (batch,) int32
// out:    q_out         (rows, num_heads * head_dim) T
//         keys, values  (max_batch, num_kv_heads, max_context, head_dim) T: one slot of each head is written
//         workspace     (rows, (num_heads + num_kv_heads) * head_dim) float32, and counters (num_heads + num_kv_heads,) uint32, zero
//                       before and after; null where kHeadNorm is kNormNone
// launch: grid (ceil(pairs / (kTile / 2))), with a q/k norm (heads * ceil(head_dim / kTile)); block (32 kGroups kSplit), dynamic shared
//         memory for kBatch normalised rows (gemv.py)
// needs:  hidden a multiple of 8 (of 32 for quantised weights); head_dim even; rotary_dim even, at most head_dim
// moves:  the weights once + rows * (4 hidden + (num_heads + 2 num_kv_heads) * head_dim * sizeof(T)) bytes, with a q/k norm the
//         workspace twice; the residual again for each block, from L2
// source: EET csrc/op/attention.cpp: layer_norm, a cuBLAS GEMM, add_QKV_bias with transposes, a copy into the cache; RoFormer (arXiv
//         2104.09864); the ticket of CUDA's threadFenceReduction sample

#include "normed_rows.cuh"
#include "rope_pairs.cuh"

// Where results go, and how they are rotated.
template <typename T, bool kInterleaved> struct QkvTarget {
    const float* __restrict__ frequencies;
    const int32_t* __restrict__ positions;
    const int32_t* __restrict__ row_starts;
    const int32_t* __restrict__ cache_rows;
    const int32_t* __restrict__ cache_starts;
    T* __restrict__ q_out;
    T* __restrict__ keys;
    T* __restrict__ values;
    int batch, num_heads, num_kv_heads, head_dim, rotary_dim;
    int64_t max_context;

    // Stores the values x, y of pair p of a head of row r, rotated unless they are v's.
    __device__ __forceinline__ void put(int r, int head, int p, float x, float y) const {
        const bool is_q = head < num_heads, is_v = head >= num_heads + num_kv_heads;
        int first, second;
        pair_elements<kInterleaved>(p, rotary_dim, first, second);
        if (!is_v && 2 * p < rotary_dim) {
            const float angle = static_cast<float>(positions[r]) * frequencies[p];
            const float cosine = cosf(angle), sine = sinf(angle), turned = x * cosine - y * sine;
            y = y * cosine + x * sine;
            x = turned;
        }
        T* target = q_out + (static_cast<int64_t>(r) * num_heads + head) * head_dim;
        if (!is_q) {
            int b = 0;   // the last sequence that starts at or before r and is not empty
            for (int i = 1; i < batch; ++i) b = row_starts[i] <= r ? i : b;
            const int64_t kv_head = (head - num_heads) % num_kv_heads;
            const int64_t slot = cache_starts[b] + r - row_starts[b];
            target = (is_v ? values : keys) + ((cache_rows[b] * static_cast<int64_t>(num_kv_heads) + kv_head) * max_context + slot) * head_dim;
        }
        target[first] = from_float<T>(x);
        target[second] = from_float<T>(y);
    }
};

// Norm, rotation and stores of `heads` heads from `head` on, by the last block that computed any of them.
template <typename T, int kHeadNorm, int kThreads, bool kInterleaved>
__device__ __forceinline__ void finish_heads(
    const QkvTarget<T, kInterleaved>& target, const float* workspace, const float* __restrict__ weight, const float* __restrict__ bias,
    int rows, int head, int heads, float eps) {
    const int head_dim = target.head_dim, size = heads * head_dim, pairs = head_dim / 2;
    const int64_t stride = static_cast<int64_t>(target.num_heads + target.num_kv_heads) * head_dim;
    for (int r = 0; r < rows; ++r) {
        const float* x = workspace + r * stride + static_cast<int64_t>(head) * head_dim;
        float mean = 0.0f, sum = 0.0f, squares = 0.0f;
        if constexpr (kHeadNorm == kNormLayer) {
            for (int i = threadIdx.x; i < size; i += kThreads) sum += x[i];
            mean = block_sum<kThreads>(sum) / size;
        }
        for (int i = threadIdx.x; i < size; i += kThreads) squares += (x[i] - mean) * (x[i] - mean);
        const float inverse = rsqrtf(block_sum<kThreads>(squares) / size + eps);
        // Weights of head 0 serve every head, or each head has its own: `size` covers both, as a norm a head has one head.
        const auto normed = [&](int i) { return (x[i] - mean) * inverse * weight[i] + (bias ? bias[i] : 0.0f); };
        for (int item = threadIdx.x; item < heads * pairs; item += kThreads) {
            const int h = item / pairs, p = item % pairs;
            int first, second;
            pair_elements<kInterleaved>(p, target.rotary_dim, first, second);
            target.put(r, head + h, p, normed(h * head_dim + first), normed(h * head_dim + second));
        }
    }
}

template <typename T, int kFormat, int kBatch, int kGroups, int kSplit, int kNorm, int kHeadNorm, bool kWholeNorm, bool kInterleaved>
__global__ __launch_bounds__(32 * kGroups * kSplit, Gemv<T, kFormat, kBatch, kGroups, kSplit>::kMinBlocks) void norm_qkv(
    const float* __restrict__ residual, const float* __restrict__ norm_weight, const float* __restrict__ norm_bias,
    const void* __restrict__ weights, const half* __restrict__ scales, const T* __restrict__ bias, const float* __restrict__ q_weight,
    const float* __restrict__ q_bias, const float* __restrict__ k_weight, const float* __restrict__ k_bias,
    const float* __restrict__ frequencies, const int32_t* __restrict__ positions, const int32_t* __restrict__ row_starts,
    const int32_t* __restrict__ cache_rows, const int32_t* __restrict__ cache_starts, T* __restrict__ q_out, T* __restrict__ keys,
    T* __restrict__ values, float* workspace, uint32_t* counters, int32_t rows, int32_t batch, int32_t hidden, int32_t num_heads,
    int32_t num_kv_heads, int32_t head_dim, int32_t rotary_dim, int64_t max_context, float eps, float head_eps) {
    using Product = Gemv<T, kFormat, kBatch, kGroups, kSplit>;
    constexpr int kThreads = Product::kThreads, kPairs = Product::kTile / 2;
    DYN_SMEM(T, shared);
    const int pairs = head_dim / 2, heads = num_heads + 2 * num_kv_heads;
    const int parts = (pairs + kPairs - 1) / kPairs;   // blocks of a head, with a q/k norm

    // Head and pair of the tile's pair j; the pair is `pairs` or more, or the head `heads`, where the tile has none.
    const auto place = [=](int j, int& head, int& p) {
        const int block = blockIdx.x;
        if (kHeadNorm != kNormNone) {
            head = block / parts;
            p = block % parts * kPairs + j;
        } else {
            head = (block * kPairs + j) / pairs;
            p = (block * kPairs + j) % pairs;
        }
    };
    const auto weight_row = [=](int i) {
        int head, p, elements[2];
        place(i / 2, head, p);
        pair_elements<kInterleaved>(min(p, pairs - 1), rotary_dim, elements[0], elements[1]);
        return min(head, heads - 1) * head_dim + elements[i % 2];
    };

    Product gemv;
    if (!kPrefetch) pdl_wait();
    gemv.begin(Weights<T, kFormat>{weights, scales, hidden}, weight_row);
    if (kPrefetch) pdl_wait();
    pdl_trigger();
    NormedRows<T, kNorm, kBatch, kThreads> normed = {residual, nullptr, norm_weight, norm_bias, rows, hidden, eps, nullptr};
    normed.measure();
    const float* sums = gemv.run(shared, [&](const Stage<T>& stage, int from, int end) { normed.stage(stage, from, end); });

    const QkvTarget<T, kInterleaved> target = {frequencies, positions, row_starts, cache_rows, cache_starts, q_out, keys, values,
                                               batch, num_heads, num_kv_heads, head_dim, rotary_dim, max_context};
    for (int item = threadIdx.x; item < kPairs * rows; item += kThreads) {
        const int j = item % kPairs, r = item / kPairs;
        int head, p, first, second;
        place(j, head, p);
        if (head >= heads || p >= pairs) continue;
        pair_elements<kInterleaved>(p, rotary_dim, first, second);
        float x = Product::result(sums, 2 * j, r), y = Product::result(sums, 2 * j + 1, r);
        if (bias) {
            x += to_float(bias[head * head_dim + first]);
            y += to_float(bias[head * head_dim + second]);
        }
        if (kHeadNorm != kNormNone && head < num_heads + num_kv_heads) {
            float* row = workspace + (static_cast<int64_t>(r) * (num_heads + num_kv_heads) + head) * head_dim;
            row[first] = x;
            row[second] = y;
        } else {
            target.put(r, head, p, x, y);
        }
    }
    if constexpr (kHeadNorm != kNormNone) {
        const int head = blockIdx.x / parts;
        const bool is_q = head < num_heads;
        if (head >= num_heads + num_kv_heads) return;
        const int group = kWholeNorm ? (is_q ? 0 : num_heads) : head, members = kWholeNorm ? (is_q ? num_heads : num_kv_heads) : 1;
        if (!is_last_block(counters + group, members * parts)) return;
        finish_heads<T, kHeadNorm, kThreads>(target, workspace, is_q ? q_weight : k_weight, is_q ? q_bias : k_bias, rows, group, members,
                                             head_eps);
    }
}
