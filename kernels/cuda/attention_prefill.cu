// attention_prefill: causal attention of ragged prompt rows over the KV cache, k and v of these rows already in it.
//
//     out[r][h] = softmax_s(score(r, h, s)) values[h'][s],  s <= slot(r), s > slot(r) - window,  h' = h / (num_heads / num_kv_heads)
//     score = cap(scale * q[r][h] . keys[h'][s]) - slopes[h] * (slot(r) - s),  cap(x) = soft_cap * tanh(x / soft_cap)
//
// Sequence b owns rows row_starts[b] .. row_starts[b + 1]; row r's slot is cache_starts[b] + r - row_starts[b], in row cache_rows[b] of
// the cache. A block has one head of one sequence and kTileQ of its rows, and goes over the slots in tiles of kTileK by online softmax.
// Slots that no row of the block may see are neither read (behind the rows: a later prompt, or nothing yet) nor visited (before the
// window). `attention_prefill` (half types) multiplies on tensor cores; the next tile's keys travel, by cp.async, while the weights
// meet the values, and this tile's values while q meets the keys. `attention_prefill_simt` is the float32 path.
//
// in:     q             (rows, num_heads, head_dim) T
//         keys, values  (max_batch, num_kv_heads, max_context, head_dim) T
//         row_starts    (batch + 1,) int32;  cache_rows, cache_starts   (batch,) int32
//         slopes        (num_heads,) float32 (ALiBi), or null
//         window        slots a row sees, itself included; 2^30 for all
//         soft_cap      used with kSoftCap
// out:    out           (rows, num_heads * head_dim) T
// launch: grid (ceil(longest run of rows / kTileQ), num_heads, batch), block (kThreads); dynamic shared memory: the launcher's sums
// needs:  head_dim a multiple of 8, at most 256; kPadded = head_dim rounded up to 16 (simt: to 32)
// moves:  q and out once; keys and values once for each block that sees them, from L2 after the first
// source: FlashAttention-2 (arXiv 2307.08691), algorithm 1 and its register layout; Press et al. (arXiv 2108.12409) for the slopes

#include "common.cuh"


// Where a block works: what row_starts, cache_rows and cache_starts say about sequence blockIdx.z.
struct PrefillTile {
    int64_t first_row;    // in q and out
    int rows;             // of the tile that exist
    int first_slot;       // of the tile's first row
    int64_t cache_at;     // element where this KV head's slots begin
    int begin, end;       // slots that some row of the tile sees
};

template <int kTileQ>
__device__ __forceinline__ PrefillTile prefill_tile(
    const int32_t* row_starts, const int32_t* cache_rows, const int32_t* cache_starts, int num_kv_heads, int head_dim,
    int64_t max_context, int window) {
    const int b = blockIdx.z, kv_head = blockIdx.y / (gridDim.y / num_kv_heads);
    const int offset = (gridDim.x - 1 - blockIdx.x) * kTileQ;   // the longest work first
    PrefillTile tile;
    tile.first_row = row_starts[b] + offset;
    tile.rows = min(kTileQ, row_starts[b + 1] - row_starts[b] - offset);
    tile.first_slot = cache_starts[b] + offset;
    tile.cache_at = (static_cast<int64_t>(cache_rows[b]) * num_kv_heads + kv_head) * max_context * head_dim;
    tile.begin = max(0, tile.first_slot - window + 1);
    tile.end = tile.first_slot + tile.rows;
    return tile;
}

// A score in units of log2: what exp2f takes. `distance` = the row's slot - the key's; outside [0, window) it is minus infinity.
template <bool kSoftCap>
__device__ __forceinline__ float score_log2(float product, float scale, float soft_cap, float slope, int distance, int window) {
    float score = product * scale;
    if constexpr (kSoftCap) score = soft_cap * tanhf(score / soft_cap);
    score = (score - slope * static_cast<float>(distance)) * kLog2E;
    return distance >= 0 && distance < window ? score : __int_as_float(0xff800000);
}

// exp2f(score - maximum) where a maximum of minus infinity (nothing seen yet) gives 0 and not NaN.
__device__ __forceinline__ float finite_maximum(float maximum) { return maximum == __int_as_float(0xff800000) ? 0.0f : maximum; }

// Starts copies of slots first .. first + kTileK of a head into shared rows of kStride; slots outside [0, end) and columns at and past
// head_dim become zeros, so that nothing a cache holds there, NaN included, reaches a product.
template <typename T, int kTileK, int kPadded, int kStride, int kThreads>
__device__ __forceinline__ void copy_slots(T* shared, const T* head, int first, int end, int head_dim) {
    constexpr int kVec = 16 / sizeof(T), kChunks = kPadded / kVec;
#pragma unroll
    for (int i = 0; i < kTileK * kChunks / kThreads; ++i) {
        const int chunk = i * kThreads + threadIdx.x, row = chunk / kChunks, column = chunk % kChunks * kVec;
        const bool valid = first + row < end && column < head_dim;
        const int64_t at = valid ? static_cast<int64_t>(first + row) * head_dim + column : 0;
        cp_async16_or_zero(shared + row * kStride + column, head + at, valid);
    }
}

template <typename T, int kPadded, bool kSoftCap, int kTileK, int kThreads>
__global__ __launch_bounds__(kThreads) void attention_prefill(
    const T* q, const T* keys, const T* values, const int32_t* row_starts,
    const int32_t* cache_rows, const int32_t* cache_starts, const float* __restrict__ slopes,
    T* __restrict__ out, int32_t num_kv_heads, int32_t head_dim, int64_t max_context, int32_t window, float scale, float soft_cap) {
    constexpr int kTileQ = kThreads / 2, kStride = kPadded + 8;   // 16 rows a warp; the 8 keep ldmatrix free of bank conflicts
    constexpr int kSteps = kPadded / 16, kSlots = kTileK / 8, kColumns = kPadded / 8;
    static_assert(kTileK * kPadded / 8 % kThreads == 0 && kTileQ * kPadded / 8 % kThreads == 0, "copies come out even");
    DYN_SMEM(T, shared);
    T* shared_keys = shared;                        // (kTileK, kStride), then as many values; before them the tile's q
    T* shared_values = shared + kTileK * kStride;
    const int lane = lane_id(), num_heads = gridDim.y, head = blockIdx.y;

    pdl_wait();
    const PrefillTile tile = prefill_tile<kTileQ>(row_starts, cache_rows, cache_starts, num_kv_heads, head_dim, max_context, window);
    if (tile.rows <= 0) return;

    uint32_t query[kSteps][4];
    const int64_t q_stride = static_cast<int64_t>(num_heads) * head_dim, q_at = tile.first_row * q_stride + head * head_dim;
#pragma unroll
    for (int i = 0; i < kTileQ * (kPadded / 8) / kThreads; ++i) {
        const int chunk = i * kThreads + threadIdx.x, row = chunk / (kPadded / 8), column = chunk % (kPadded / 8) * 8;
        const bool valid = row < tile.rows && column < head_dim;
        cp_async16_or_zero(shared + row * kStride + column, q + q_at + (valid ? row * q_stride + column : 0), valid);
    }
    cp_async_commit();
    cp_async_wait<0>();
    __syncthreads();
#pragma unroll
    for (int s = 0; s < kSteps; ++s)
        ldmatrix_x4(query[s], shared + (warp_id() * 16 + lane % 16) * kStride + s * 16 + lane / 16 * 8);
    __syncthreads();

    float result[kColumns][4] = {};
    float maximum[2] = {__int_as_float(0xff800000), __int_as_float(0xff800000)}, sum[2] = {};
    const float slope = slopes ? slopes[head] : 0.0f;
    const int first_slot = tile.first_slot + warp_id() * 16 + lane / 4;   // of this lane's first row; its second is 8 further
    const T* head_keys = keys + tile.cache_at;
    const T* head_values = values + tile.cache_at;
    const int first_tile = tile.begin / kTileK * kTileK;
    copy_slots<T, kTileK, kPadded, kStride, kThreads>(shared_keys, head_keys, first_tile, tile.end, head_dim);
    cp_async_commit();
    for (int at = first_tile; at < tile.end; at += kTileK) {
        copy_slots<T, kTileK, kPadded, kStride, kThreads>(shared_values, head_values, at, tile.end, head_dim);
        cp_async_commit();
        cp_async_wait<1>();
        __syncthreads();

        float score[kSlots][4] = {};
#pragma unroll
        for (int s = 0; s < kSteps; ++s) {
#pragma unroll
            for (int j = 0; j < kSlots; j += 2) {
                uint32_t key[4];
                ldmatrix_x4(key, shared_keys + (j * 8 + lane / 16 * 8 + lane % 8) * kStride + s * 16 + lane / 8 % 2 * 8);
                mma_16816<T>(score[j], query[s], {key[0], key[1]}, score[j]);
                mma_16816<T>(score[j + 1], query[s], {key[2], key[3]}, score[j + 1]);
            }
        }
        __syncthreads();   // the keys have been read: the next may come
        if (at + kTileK < tile.end)
            copy_slots<T, kTileK, kPadded, kStride, kThreads>(shared_keys, head_keys, at + kTileK, tile.end, head_dim);
        cp_async_commit();

#pragma unroll
        for (int half_tile = 0; half_tile < 2; ++half_tile) {   // rows lane / 4 and lane / 4 + 8 of the warp's 16
            const int slot = first_slot + 8 * half_tile - at - lane % 4 * 2;
            float highest = maximum[half_tile];
#pragma unroll
            for (int j = 0; j < kSlots; ++j) {
#pragma unroll
                for (int i = 0; i < 2; ++i) {
                    float& x = score[j][2 * half_tile + i];
                    x = score_log2<kSoftCap>(x, scale, soft_cap, slope, slot - j * 8 - i, window);
                    highest = fmaxf(highest, x);
                }
            }
            highest = warp_max<4>(highest);
            const float base = finite_maximum(highest), shrink = exp2f(maximum[half_tile] - base);
            maximum[half_tile] = highest;
            sum[half_tile] *= shrink;
#pragma unroll
            for (int j = 0; j < kSlots; ++j) {
#pragma unroll
                for (int i = 0; i < 2; ++i) {
                    float& x = score[j][2 * half_tile + i];
                    x = exp2f(x - base);
                    sum[half_tile] += x;
                }
            }
#pragma unroll
            for (int c = 0; c < kColumns; ++c) {
                result[c][2 * half_tile] *= shrink;
                result[c][2 * half_tile + 1] *= shrink;
            }
        }

        cp_async_wait<1>();   // the values are here; the next keys may still travel
        __syncthreads();
#pragma unroll
        for (int s = 0; s < kSlots / 2; ++s) {
            const uint32_t weight[4] = {
                pack2<T>(score[2 * s][0], score[2 * s][1]), pack2<T>(score[2 * s][2], score[2 * s][3]),
                pack2<T>(score[2 * s + 1][0], score[2 * s + 1][1]), pack2<T>(score[2 * s + 1][2], score[2 * s + 1][3])};
#pragma unroll
            for (int c = 0; c < kColumns; c += 2) {
                uint32_t value[4];
                ldmatrix_x4_trans(value, shared_values + (s * 16 + lane % 16) * kStride + c * 8 + lane / 16 * 8);
                mma_16816<T>(result[c], weight, {value[0], value[1]}, result[c]);
                mma_16816<T>(result[c + 1], weight, {value[2], value[3]}, result[c + 1]);
            }
        }
        __syncthreads();   // the values have been read
    }
    pdl_trigger();

#pragma unroll
    for (int half_tile = 0; half_tile < 2; ++half_tile) {
        const int row = warp_id() * 16 + lane / 4 + 8 * half_tile;
        const float inverse = 1.0f / warp_sum<4>(sum[half_tile]);
        if (row >= tile.rows) continue;
#pragma unroll
        for (int c = 0; c < kColumns; ++c) {
            if (c * 8 >= head_dim) break;
            const float pair[2] = {result[c][2 * half_tile] * inverse, result[c][2 * half_tile + 1] * inverse};
            store_floats<2>(out + q_at + row * q_stride + c * 8 + lane % 4 * 2, pair);
        }
    }
}

// float32: a warp has kRows rows of the tile, a lane one slot of 32 in the products with q and every 32nd column in those with v.
template <int kPadded, bool kSoftCap, int kThreads>
__global__ __launch_bounds__(kThreads) void attention_prefill_simt(
    const float* q, const float* keys, const float* values,
    const int32_t* row_starts, const int32_t* cache_rows, const int32_t* cache_starts,
    const float* __restrict__ slopes, float* __restrict__ out, int32_t num_kv_heads, int32_t head_dim, int64_t max_context,
    int32_t window, float scale, float soft_cap) {
    constexpr int kRows = 4, kTileQ = kThreads / kWarp * kRows, kTileK = kWarp, kStride = kPadded + 4, kColumns = kPadded / kWarp;
    DYN_SMEM(float, shared);
    float* shared_q = shared;                                  // (kTileQ, kPadded)
    float* shared_slots = shared_q + kTileQ * kPadded;         // (kTileK, kStride): keys, then values
    float* weights = shared_slots + kTileK * kStride + warp_id() * kRows * kTileK;   // (kRows, kTileK) of this warp
    const int lane = lane_id(), num_heads = gridDim.y, head = blockIdx.y;

    pdl_wait();
    const PrefillTile tile = prefill_tile<kTileQ>(row_starts, cache_rows, cache_starts, num_kv_heads, head_dim, max_context, window);
    if (tile.rows <= 0) return;

    const int64_t q_stride = static_cast<int64_t>(num_heads) * head_dim, q_at = tile.first_row * q_stride + head * head_dim;
    for (int i = threadIdx.x; i < kTileQ * kPadded; i += kThreads) {
        const int row = i / kPadded, column = i % kPadded;
        shared_q[i] = row < tile.rows && column < head_dim ? q[q_at + row * q_stride + column] : 0.0f;
    }
    float result[kRows][kColumns] = {}, maximum[kRows], sum[kRows] = {};
#pragma unroll
    for (int r = 0; r < kRows; ++r) maximum[r] = __int_as_float(0xff800000);
    const float slope = slopes ? slopes[head] : 0.0f;
    const int first_slot = tile.first_slot + warp_id() * kRows;
    const float* warp_q = shared_q + warp_id() * kRows * kPadded;

    for (int at = tile.begin / kTileK * kTileK; at < tile.end; at += kTileK) {
        copy_slots<float, kTileK, kPadded, kStride, kThreads>(shared_slots, keys + tile.cache_at, at, tile.end, head_dim);
        cp_async_commit();
        cp_async_wait<0>();
        __syncthreads();
        float product[kRows] = {};
#pragma unroll 4
        for (int k = 0; k < kPadded; k += 4) {
            float key[4];
            load_floats<4>(shared_slots + lane * kStride + k, key);
#pragma unroll
            for (int r = 0; r < kRows; ++r) {
                float query[4];
                load_floats<4>(warp_q + r * kPadded + k, query);
#pragma unroll
                for (int i = 0; i < 4; ++i) product[r] = fmaf(query[i], key[i], product[r]);
            }
        }
        __syncthreads();   // the keys have been read: the values take their place
        copy_slots<float, kTileK, kPadded, kStride, kThreads>(shared_slots, values + tile.cache_at, at, tile.end, head_dim);
        cp_async_commit();
#pragma unroll
        for (int r = 0; r < kRows; ++r) {
            const float x = score_log2<kSoftCap>(product[r], scale, soft_cap, slope, first_slot + r - at - lane, window);
            const float highest = fmaxf(maximum[r], warp_max(x)), base = finite_maximum(highest);
            const float shrink = exp2f(maximum[r] - base), weight = exp2f(x - base);
            maximum[r] = highest;
            sum[r] = sum[r] * shrink + warp_sum(weight);
            weights[r * kTileK + lane] = weight;
#pragma unroll
            for (int c = 0; c < kColumns; ++c) result[r][c] *= shrink;
        }
        cp_async_wait<0>();
        __syncthreads();   // the values of all threads, the weights of this warp
#pragma unroll 4
        for (int j = 0; j < kTileK; ++j) {
#pragma unroll
            for (int c = 0; c < kColumns; ++c) {
                const float value = shared_slots[j * kStride + c * kWarp + lane];
#pragma unroll
                for (int r = 0; r < kRows; ++r) result[r][c] = fmaf(weights[r * kTileK + j], value, result[r][c]);
            }
        }
        __syncthreads();   // the values have been read
    }
    pdl_trigger();

#pragma unroll
    for (int r = 0; r < kRows; ++r) {
        const int row = warp_id() * kRows + r;
        if (row >= tile.rows) break;
#pragma unroll
        for (int c = 0; c < kColumns; ++c) {
            const int column = c * kWarp + lane;
            if (column < head_dim) out[q_at + row * q_stride + column] = result[r][c] / sum[r];
        }
    }
}
