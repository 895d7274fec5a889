// attention_decode: attention of single rows, each over its own slots of the KV cache, its own k and v already in it.
//
//     out[r][h] = softmax_s(score(r, h, s)) values[h'][s],  s <= slot(r), s > slot(r) - window,  h' = h / (num_heads / num_kv_heads)
//     score = cap(scale * q[r][h] . keys[h'][s]) - slopes[h] * (slot(r) - s),  cap(x) = soft_cap * tanh(x / soft_cap)
//
// A pair is a KV head and up to kHeads of its query heads, which share every load of keys and values. A row's visible slots are cut
// into tiles of kTile; a block takes a run of tiles of one row and pair (a piece) and leaves (m, l, acc) of the online softmax in
// `partials`; the block that finishes a row and pair last, by ticket, merges its pieces in slot order. A piece that is whole is written at
// once. Two ways to deal tiles to blocks:
//   kStream false: grid.x blocks to every row and pair (fewer where there are fewer tiles: the rest return)
//   kStream true:  grid.x blocks to everything, each an equal, contiguous range of the list of all tiles, across rows and pairs
// Lengths are read here, so a captured graph serves every length; the host chooses the grid alone.
//
// in:     q             (rows, num_heads, head_dim) T
//         keys, values  (max_batch, num_kv_heads, max_context, head_dim) T; slots beyond a row's own are never read
//         positions     (rows,) int32, a row's own slot, at least 0;  cache_rows  (rows,) int32. Both were written at least two
//                       launches ago: they are read before the wait
//         slopes        (num_heads,) float32 (ALiBi), or null
//         window        slots a row sees, itself included; 2^30 for all
//         soft_cap      used with kSoftCap
// out:    out           (rows, num_heads * head_dim) T
//         partials      float32 scratch: kHeads * (head_dim + 2) a piece; rows * pairs * grid.x pieces, with kStream 2 * grid.x
//         counters      (rows * pairs,) uint32, 0 before and after
// launch: grid (splits, pairs, rows), with kStream (blocks); block (kThreads); pairs = num_kv_heads * ceil(group / kHeads)
// needs:  head_dim a multiple of 8, at most 256
// moves:  keys and values of the visible slots ceil(group / kHeads) times, q and out once; of a piece that is not whole its partials twice
// source: Flash-Decoding (Dao et al., 2023) for the split; LeanAttention (arXiv 2405.10480), algorithm 2, for the stream-K partition;
//         EET csrc/core/attention_dispatch.cu has one block a head, whatever the length

#include "attend.cuh"

// What a block works on at one time: slots first .. last of a row and pair, piece `index` of `parts`.
struct Piece {
    int row, pair, position, cache_row, first, last, index, parts;
    int64_t record, record_rest;   // where piece 0 lies in partials; piece i > 0 lies at record_rest + i * record_step
    int record_step;
    __device__ __forceinline__ int64_t record_at(int i) const { return i ? record_rest + static_cast<int64_t>(i) * record_step : record; }
};

// The slots a row sees, in tiles.
template <int kTile> struct Slots {
    int begin, end;
    __device__ Slots(int position, int window) : begin(max(0, position - window + 1)), end(position + 1) {}
    __device__ int tiles() const { return (end - begin + kTile - 1) / kTile; }
    __device__ int at(int tile) const { return min(begin + tile * kTile, end); }
};

// Joins what the parts of a row and pair left: a warp a head finds the maximum and the sum of all, then every output adds up its values,
// with many loads under way.
template <int kHeadDim, int kHeads, int kThreads, typename T>
__device__ __forceinline__ void merge_parts(const Piece& piece, int heads, const float* partials, T* out) {
    constexpr int kRecord = kHeads * (kHeadDim + 2), kWarps = kThreads / kWarp;
    SMEM(float, whole_m, kHeads);
    SMEM(float, whole_l, kHeads);
    const auto record_of = [&](int part) { return partials + piece.record_at(part) * kRecord; };
    for (int h = warp_id(); h < heads; h += kWarps) {
        float m = kLowest, l = 0.0f, keep, take;
        for (int part = lane_id(); part < piece.parts; part += kWarp) {
            const float* maximum = record_of(part) + kHeads * kHeadDim + 2 * h;
            join(m, l, load_fresh(maximum), load_fresh(maximum + 1), keep, take);
        }
#pragma unroll
        for (int offset = kWarp / 2; offset > 0; offset /= 2)
            join(m, l, __shfl_xor_sync(kFullMask, m, offset), __shfl_xor_sync(kFullMask, l, offset), keep, take);
        if (lane_id() == 0) whole_m[h] = m, whole_l[h] = l;
    }
    __syncthreads();
    for (int i = threadIdx.x; i < heads * kHeadDim; i += kThreads) {
        const int h = i / kHeadDim;
        const float m = whole_m[h];
        float acc = 0.0f;
#pragma unroll 8
        for (int part = 0; part < piece.parts; ++part) {
            const float* record = record_of(part);
            acc = fmaf(exp2f(load_fresh(record + kHeads * kHeadDim + 2 * h) - m), load_fresh(record + i), acc);
        }
        out[i] = from_float<T>(acc / whole_l[h]);
    }
    __syncthreads();   // whole_m and whole_l are free for the next piece
}

// One piece from slots to `out`, or to `partials` and, for the last of its row and pair to arrive, to `out`.
template <typename T, int kHeadDim, int kHeads, bool kSoftCap, int kThreads>
__device__ __forceinline__ void run_piece(
    const Piece& piece, const T* q, const T* keys, const T* values, const float* slopes, T* out, float* partials, uint32_t* counters, int num_heads, int num_kv_heads, int64_t max_context, float scale,
    float soft_cap) {
    constexpr int kSets = kResultSets<T, kHeadDim, kHeads, kThreads>, kRecord = kHeads * (kHeadDim + 2);
    SMEM(float, block_m, kSets * kHeads);
    SMEM(float, block_l, kSets * kHeads);
    SMEM(float, block_acc, kSets * kHeads * kHeadDim);
    const int group = num_heads / num_kv_heads, head_tiles = (group + kHeads - 1) / kHeads;
    const int kv_head = piece.pair / head_tiles, in_group = piece.pair % head_tiles * kHeads;
    const int head = kv_head * group + in_group, heads = min(kHeads, group - in_group);
    const int64_t query_at = (static_cast<int64_t>(piece.row) * num_heads + head) * kHeadDim;
    const int64_t cache_at = (static_cast<int64_t>(piece.cache_row) * num_kv_heads + kv_head) * max_context * kHeadDim;

    attend<T, kHeadDim, kHeads, kSoftCap, kThreads>(
        q + query_at, keys + cache_at, values + cache_at, slopes ? slopes + head : nullptr, heads, piece.position, piece.first, piece.last,
        scale, soft_cap, block_m, block_l, block_acc);
    __syncthreads();

    float* record = partials + piece.record_at(piece.index) * kRecord;
    for (int i = threadIdx.x; i < heads * kHeadDim; i += kThreads) {
        const int h = i / kHeadDim, d = i % kHeadDim;
        float m = kLowest, l = 0.0f, acc = 0.0f;
#pragma unroll
        for (int w = 0; w < kSets; ++w) {
            float keep, take;
            join(m, l, block_m[w * kHeads + h], block_l[w * kHeads + h], keep, take);
            acc = acc * keep + block_acc[(w * kHeads + h) * kHeadDim + d] * take;
        }
        if (piece.parts == 1) {
            out[query_at + i] = from_float<T>(acc / l);
        } else {
            record[i] = acc;
            if (d == 0) {
                record[kHeads * kHeadDim + 2 * h] = m;
                record[kHeads * kHeadDim + 2 * h + 1] = l;
            }
        }
    }
    if (piece.parts == 1) {
        __syncthreads();   // block_acc is free for the next piece
        return;
    }
    const int pairs = num_kv_heads * head_tiles;
    if (!is_last_block(counters + static_cast<int64_t>(piece.row) * pairs + piece.pair, piece.parts)) return;
    merge_parts<kHeadDim, kHeads, kThreads>(piece, heads, partials, out + query_at);
}

// One resident block is all that is asked for: left to itself, ptxas spills a few bytes to fit a third or fourth.
template <typename T, int kHeadDim, int kHeads, bool kSoftCap, bool kStream, int kTile, int kThreads>
__global__ __launch_bounds__(kThreads, 1) void attention_decode(
    const T* q, const T* keys, const T* values, const int32_t* positions,
    const int32_t* cache_rows, const float* __restrict__ slopes, T* __restrict__ out, float* partials, uint32_t* counters,
    int32_t rows, int32_t num_heads, int32_t num_kv_heads, int64_t max_context, int32_t window, float scale, float soft_cap) {
    static_assert(kHeadDim % 8 == 0 && kHeadDim <= 256, "head_dim is a multiple of 8 up to 256");
    if constexpr (!kStream) {
        const int row = blockIdx.z, pair = blockIdx.y, block = blockIdx.x;
        const int position = load_early(positions + row), cache_row = load_early(cache_rows + row);
        const Slots<kTile> slots(position, window);
        const int tiles = slots.tiles(), parts = min(tiles, static_cast<int>(gridDim.x));   // tiles times blocks are far below 2^31
        const int64_t record = (static_cast<int64_t>(row) * gridDim.y + pair) * gridDim.x;
        const Piece piece = {row, pair, position, cache_row, slots.at(tiles * block / parts), slots.at(tiles * (block + 1) / parts),
                             block, parts, record, record, 1};
        pdl_wait();
        pdl_trigger();
        if (block >= parts) return;
        run_piece<T, kHeadDim, kHeads, kSoftCap, kThreads>(
            piece, q, keys, values, slopes, out, partials, counters, num_heads, num_kv_heads, max_context, scale, soft_cap);
    } else {
        const int64_t block = blockIdx.x;
        // The list of tiles goes row by row, in a row pair by pair. Block b of n takes tiles total * b / n .. total * (b + 1) / n.
        const int group = num_heads / num_kv_heads, pairs = num_kv_heads * ((group + kHeads - 1) / kHeads);
        int64_t total = 0;
        for (int row = 0; row < rows; ++row) total += static_cast<int64_t>(Slots<kTile>(load_early(positions + row), window).tiles()) * pairs;
        const int64_t blocks = min(total, static_cast<int64_t>(gridDim.x));
        pdl_wait();
        pdl_trigger();
        if (block >= blocks) return;
        int64_t at = total * block / blocks;
        const int64_t stop = total * (block + 1) / blocks;
        int64_t row_start = 0;
        for (int row = 0; row < rows && at < stop; ++row) {
            const int position = load_early(positions + row), cache_row = load_early(cache_rows + row);
            const Slots<kTile> slots(position, window);
            const int64_t tiles = slots.tiles(), row_stop = row_start + tiles * pairs;
            while (at < min(stop, row_stop)) {
                const int pair = static_cast<int>((at - row_start) / tiles);
                const int64_t start = row_start + pair * tiles, end = min(stop, start + tiles);
                // The largest b with total * b / blocks <= t, rounded down, is the block that has tile t.
                const int64_t first_block = ((start + 1) * blocks - 1) / total, last_block = ((start + tiles) * blocks - 1) / total;
                // A block leaves at most two partial pieces: one that another block began (record 2 b) and one that it begins (2 b + 1).
                const Piece piece = {row, pair, position, cache_row, slots.at(static_cast<int>(at - start)), slots.at(static_cast<int>(end - start)),
                                     static_cast<int>(block - first_block), static_cast<int>(last_block - first_block + 1),
                                     2 * first_block + 1, 2 * first_block, 2};
                run_piece<T, kHeadDim, kHeads, kSoftCap, kThreads>(
                    piece, q, keys, values, slopes, out, partials, counters, num_heads, num_kv_heads, max_context, scale, soft_cap);
                at = end;
            }
            row_start = row_stop;
        }
    }
}
