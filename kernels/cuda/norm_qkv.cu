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
// more than a tile: blocks leave their values in `workspace`, and who adds the last pairs of a head (of q or of k, with kWholeNorm)
// finishes it.
//
// in:     residual      (rows, hidden) float32, rows <= kBatch
//         norm_weight, norm_bias   (hidden,) float32; both null for kNormNone, the bias may be null
//         weights       ((num_heads + 2 num_kv_heads) * head_dim, hidden) in kFormat: all q heads, then k, then v; scales null for kDense
//         bias          (the same rows,) T, or null
//         q_weight, q_bias, k_weight, k_bias   float32, or null: both weights where kHeadNorm is not kNormNone, biases where the model has them
//         frequencies   (rotary_dim / 2,) float32, radians a position; rotary_dim 0 for families without rotary
//         positions     (rows,) int32
//         row_starts    (batch + 1,) int32;  cache_rows, cache_starts   (batch,) int32
//         All four were written at least two launches ago: they are read before the wait.
// out:    q_out         (rows, num_heads * head_dim) T
//         keys, values  (max_batch, num_kv_heads, max_context, head_dim) T: one slot of each head is written
//         workspace     (rows, (num_heads + num_kv_heads) * head_dim) float32, and counters (num_heads + num_kv_heads,) uint32, zero
//                       before and after; null where kHeadNorm is kNormNone
// launch: grid (blocks), block (32 kGroups kSplit), dynamic shared memory for kBatch normalised rows (gemv.py)
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
    const int32_t* positions;
    const int32_t* row_starts;
    const int32_t* cache_rows;
    const int32_t* cache_starts;
    T* __restrict__ q_out;
    T* __restrict__ keys;
    T* __restrict__ values;
    int batch, num_heads, num_kv_heads, head_dim, rotary_dim;
    int64_t max_context;

    // Of a row: its position, and its slot counted from the first slot of the first head of cache row 0.
    struct Place {
        int position;
        int64_t slot;
    };
    __device__ __forceinline__ Place place_of(int r) const {
        int b = 0;   // the last sequence that starts at or before r and is not empty
#pragma unroll 1
        for (int i = 1; i < batch; ++i) b = load_early(row_starts + i) <= r ? i : b;
        const int slot = load_early(cache_starts + b) + r - load_early(row_starts + b);
        return {load_early(positions + r), static_cast<int64_t>(load_early(cache_rows + b)) * num_kv_heads * max_context + slot};
    }

    // Radians a position of pair p of a head; 0, which turns nothing, for v's and for elements past rotary_dim.
    __device__ __forceinline__ float frequency(int head, int p) const {
        return head < num_heads + num_kv_heads && 2 * p < rotary_dim ? load_early(frequencies + p) : 0.0f;
    }

    // Stores the values x, y of pair p of a head of row r, rotated.
    __device__ __forceinline__ void put(int r, int head, int p, float x, float y, const Place& place, float frequency) const {
        const bool is_q = head < num_heads, is_v = head >= num_heads + num_kv_heads;
        int first, second;
        pair_elements<kInterleaved>(p, rotary_dim, first, second);
        if (frequency != 0.0f) {
            const float angle = static_cast<float>(place.position) * frequency;
            const float cosine = cosf(angle), sine = sinf(angle), turned = x * cosine - y * sine;
            y = y * cosine + x * sine;
            x = turned;
        }
        T* target = q_out + (static_cast<int64_t>(r) * num_heads + head) * head_dim;
        if (!is_q) target = (is_v ? values : keys) + (place.slot + (head - num_heads) % num_kv_heads * max_context) * head_dim;
        target[first] = from_float<T>(x);
        target[second] = from_float<T>(y);
    }
};

// Norm, rotation and stores of `heads` heads from `head` on, by the block that added the last of their values.
template <typename T, int kHeadNorm, int kThreads, bool kInterleaved>
__device__ __forceinline__ void finish_heads(
    const QkvTarget<T, kInterleaved>& target, const float* workspace, const float* __restrict__ weight, const float* __restrict__ bias,
    int rows, int head, int heads, float eps) {
    const int head_dim = target.head_dim, size = heads * head_dim, pairs = head_dim / 2;
    const int64_t stride = static_cast<int64_t>(target.num_heads + target.num_kv_heads) * head_dim;
    for (int r = 0; r < rows; ++r) {
        const float* x = workspace + r * stride + static_cast<int64_t>(head) * head_dim;
        const auto place = target.place_of(r);
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
            target.put(r, head + h, p, normed(h * head_dim + first), normed(h * head_dim + second), place, target.frequency(head + h, p));
        }
    }
}

template <typename T, int kFormat, int kBatch, int kGroups, int kSplit, int kNorm, bool kHeld, int kHeadNorm, bool kWholeNorm, bool kInterleaved>
__global__ __launch_bounds__(
    32 * kGroups * kSplit, kHeadNorm == kNormNone ? Gemv<T, kFormat, kBatch, kGroups, kSplit>::kMinBlocks
                                                  : Gemv<T, kFormat, kBatch, kGroups, kSplit>::kRoomyBlocks) void norm_qkv(
    const float* residual, const float* __restrict__ norm_weight, const float* __restrict__ norm_bias,
    const void* __restrict__ weights, const half* __restrict__ scales, const T* __restrict__ bias, const float* __restrict__ q_weight,
    const float* __restrict__ q_bias, const float* __restrict__ k_weight, const float* __restrict__ k_bias,
    const float* __restrict__ frequencies, const int32_t* positions, const int32_t* row_starts, const int32_t* cache_rows,
    const int32_t* cache_starts, T* __restrict__ q_out, T* __restrict__ keys, T* __restrict__ values, float* workspace,
    uint32_t* counters, int32_t rows, int32_t batch, int32_t hidden, int32_t num_heads, int32_t num_kv_heads, int32_t head_dim,
    int32_t rotary_dim, int64_t max_context, float eps, float head_eps) {
    using Product = Gemv<T, kFormat, kBatch, kGroups, kSplit>;
    using Target = QkvTarget<T, kInterleaved>;
    constexpr int kThreads = Product::kThreads, kPairs = Product::kTile / 2, kItems = Product::template kItems<2>;
    DYN_SMEM(T, shared);
    const int pairs = head_dim / 2, heads = num_heads + 2 * num_kv_heads, total = heads * pairs;
    const Target target = {frequencies, positions, row_starts, cache_rows, cache_starts, q_out, keys, values,
                           batch, num_heads, num_kv_heads, head_dim, rotary_dim, max_context};
    NormedRows<T, kNorm, kBatch, kThreads, kHeld> normed(residual, nullptr, norm_weight, norm_bias, rows, hidden, eps);

    // Rows 2j and 2j + 1 are the elements of pair j, counted over all heads; head_of(j) is j / pairs, right for j < 2^32 / pairs.
    const uint32_t share = 0xFFFFFFFFu / pairs + 1;
    const auto head_of = [=](int pair) { return static_cast<int>(__umulhi(pair, share)); };
    const auto row_of = [=](int v) {
        const int pair = min(v / 2, total - 1), head = head_of(pair);
        int first, second;
        pair_elements<kInterleaved>(pair - head * pairs, rotary_dim, first, second);
        return head * head_dim + (v % 2 ? second : first);
    };

    Product gemv;
    if (!kPrefetch) pdl_wait();
    gemv.begin(Weights<T, kFormat>{weights, scales, hidden}, bias, 2 * total, row_of);
    normed.begin();
    const int end = min(2 * total, gemv.last);

    float frequency[kItems];
    using Place = typename Target::Place;
    SMEM(Place, places, kBatch);   // of the rows: in registers they would be in the way until the end
    const int own_row = threadIdx.x;
    Place place = {};
    const auto load_frequencies = [&](int tile) {
        Product::template for_each_item<2>(tile, end, rows, [&](int j, int, int row, int) {
            const int head = head_of(row / 2);
            frequency[j] = target.frequency(head, row / 2 - head * pairs);
        });
    };
    load_frequencies(gemv.first);
    if (own_row < rows) place = target.place_of(own_row);
    if (kPrefetch) pdl_wait();
    pdl_trigger();
    normed.hold();
    if (own_row < rows) places[own_row] = place;
    normed.measure();
    gemv.run(
        shared, row_of, [&](const Stage<T>& stage, int from, int to) { normed.stage(stage, from, to); }, load_frequencies,
        [&](int tile, const typename Product::Sums& sum) {
            Product::template for_each_item<2>(tile, end, rows, [&](int j, int i, int row, int b) {
                const int head = head_of(row / 2), p = row / 2 - head * pairs;
                const float x = sum(i, b), y = sum(i + 1, b);
                if (kHeadNorm != kNormNone && head < num_heads + num_kv_heads) {
                    int first, second;
                    pair_elements<kInterleaved>(p, rotary_dim, first, second);
                    float* kept = workspace + (static_cast<int64_t>(b) * (num_heads + num_kv_heads) + head) * head_dim;
                    kept[first] = x;
                    kept[second] = y;
                } else {
                    target.put(b, head, p, x, y, places[b], frequency[j]);
                }
            });
            if constexpr (kHeadNorm != kNormNone) {
                const int from = tile / 2, to = min(end / 2, from + kPairs);
                for (int head = from / pairs; head * pairs < to && head < num_heads + num_kv_heads; ++head) {
                    const bool is_q = head < num_heads;
                    const int group = kWholeNorm ? (is_q ? 0 : num_heads) : head, members = kWholeNorm ? (is_q ? num_heads : num_kv_heads) : 1;
                    const int done = min(to, (head + 1) * pairs) - max(from, head * pairs);
                    if (is_last_share(counters + group, done, members * pairs))
                        finish_heads<T, kHeadNorm, kThreads>(target, workspace, is_q ? q_weight : k_weight, is_q ? q_bias : k_bias, rows,
                                                             group, members, head_eps);
                }
            }
        });
}
