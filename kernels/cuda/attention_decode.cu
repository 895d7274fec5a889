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
//         positions     (rows,) int32, a row's own slot, at least 0;  cache_rows  (rows,) int32
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

#include "common.cuh"

constexpr float kLowest = -3.0e38f;   // the running maximum of no slots: finite, so that differences are never NaN

// How neighbouring lanes share a slot's head_dim values: 16-byte vectors, kSteps a lane.
template <typename T, int kHeadDim> struct Lanes {
    static constexpr int kVec = 16 / sizeof(T);
    static constexpr int kVectors = kHeadDim / kVec;
    static constexpr int kLanes = kVectors > 16 ? 32 : kVectors > 8 ? 16 : kVectors > 4 ? 8 : kVectors > 2 ? 4 : kVectors;
    static constexpr int kSteps = (kVectors + kLanes - 1) / kLanes;
};

// What a block works on at one time: slots first .. last of a row and pair, piece `index` of `parts`.
struct Piece {
    int row, pair, first, last, index, parts;
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

// Multiplies what two disjoint sets of slots have summed by `keep` and `take` to bring both to one maximum.
__device__ __forceinline__ void join(float& m, float& l, float other_m, float other_l, float& keep, float& take) {
    const float top = fmaxf(m, other_m);
    keep = exp2f(m - top);
    take = exp2f(other_m - top);
    m = top;
    l = l * keep + other_l * take;
}

template <int kSteps, typename T, int kVec>
__device__ __forceinline__ void load_slot(Vec<T, kVec> (&out)[kSteps], const T* slot, int lane, int lanes, int vectors, bool valid) {
#pragma unroll
    for (int i = 0; i < kSteps; ++i) {
        const int vector = i * lanes + lane;
        if (valid && vector < vectors) {
            out[i] = load_stream<kVec>(slot + vector * kVec);
        } else {
#pragma unroll
            for (int j = 0; j < kVec; ++j) out[i].v[j] = from_float<T>(0.0f);
        }
    }
}

// Online softmax over the piece, merged over the block: m, l and acc of head h in shared memory, one set a warp.
template <typename T, int kHeadDim, int kHeads, bool kSoftCap, int kThreads>
__device__ __forceinline__ void attend(
    const T* q, const T* keys, const T* values, const float* slopes, int heads, int position, int first, int last, float scale,
    float soft_cap, float (&block_m)[kThreads / kWarp * kHeads], float (&block_l)[kThreads / kWarp * kHeads],
    float (&block_acc)[kThreads / kWarp * kHeads * kHeadDim]) {
    using L = Lanes<T, kHeadDim>;
    constexpr int kVec = L::kVec, kSteps = L::kSteps, kLanes = L::kLanes, kGroups = kThreads / kLanes;
    constexpr int kUnroll = kHeads * kSteps * kVec <= 32 ? 4 : 2;   // slots in flight a lane: as many as registers allow
    const int lane = threadIdx.x % kLanes, group = threadIdx.x / kLanes;

    float query[kHeads][kSteps * kVec], slope[kHeads], m[kHeads], l[kHeads], acc[kHeads][kSteps * kVec];
#pragma unroll
    for (int h = 0; h < kHeads; ++h) {
        Vec<T, kVec> raw[kSteps];
        load_slot<kSteps>(raw, q + h * kHeadDim, lane, kLanes, L::kVectors, h < heads);
        slope[h] = slopes && h < heads ? slopes[h] : 0.0f;
        m[h] = kLowest;
        l[h] = 0.0f;
#pragma unroll
        for (int i = 0; i < kSteps * kVec; ++i) {
            query[h][i] = scale * to_float(raw[i / kVec].v[i % kVec]);
            acc[h][i] = 0.0f;
        }
    }

    for (int base = first; base < last; base += kGroups * kUnroll) {
        Vec<T, kVec> k[kUnroll][kSteps], v[kUnroll][kSteps];
#pragma unroll
        for (int u = 0; u < kUnroll; ++u) {
            const int slot = base + u * kGroups + group;
            load_slot<kSteps>(k[u], keys + static_cast<int64_t>(slot) * kHeadDim, lane, kLanes, L::kVectors, slot < last);
            load_slot<kSteps>(v[u], values + static_cast<int64_t>(slot) * kHeadDim, lane, kLanes, L::kVectors, slot < last);
        }
        float score[kUnroll][kHeads];
#pragma unroll
        for (int u = 0; u < kUnroll; ++u) {
            const int slot = base + u * kGroups + group;
#pragma unroll
            for (int h = 0; h < kHeads; ++h) {
                float sum = 0.0f;
#pragma unroll
                for (int i = 0; i < kSteps * kVec; ++i) sum = fmaf(query[h][i], to_float(k[u][i / kVec].v[i % kVec]), sum);
                sum = warp_sum<kLanes>(sum);
                if constexpr (kSoftCap) sum = soft_cap * tanhf(sum / soft_cap);
                score[u][h] = slot < last ? (sum - slope[h] * static_cast<float>(position - slot)) * kLog2E : kLowest;
            }
        }
#pragma unroll
        for (int h = 0; h < kHeads; ++h) {
            float top = m[h];
#pragma unroll
            for (int u = 0; u < kUnroll; ++u) top = fmaxf(top, score[u][h]);
            const float keep = exp2f(m[h] - top);
            m[h] = top;
            l[h] *= keep;
#pragma unroll
            for (int i = 0; i < kSteps * kVec; ++i) acc[h][i] *= keep;
#pragma unroll
            for (int u = 0; u < kUnroll; ++u) {
                const float weight = base + u * kGroups + group < last ? exp2f(score[u][h] - top) : 0.0f;
                l[h] += weight;
#pragma unroll
                for (int i = 0; i < kSteps * kVec; ++i)
                    acc[h][i] = fmaf(weight, to_float(v[u][i / kVec].v[i % kVec]), acc[h][i]);
            }
        }
    }

#pragma unroll
    for (int h = 0; h < kHeads; ++h) {
#pragma unroll
        for (int offset = kLanes; offset < kWarp; offset *= 2) {
            float keep, take;
            join(m[h], l[h], __shfl_xor_sync(kFullMask, m[h], offset), __shfl_xor_sync(kFullMask, l[h], offset), keep, take);
#pragma unroll
            for (int i = 0; i < kSteps * kVec; ++i)
                acc[h][i] = acc[h][i] * keep + __shfl_xor_sync(kFullMask, acc[h][i], offset) * take;
        }
        const int at = warp_id() * kHeads + h;
        if (lane_id() == 0) {
            block_m[at] = m[h];
            block_l[at] = l[h];
        }
#pragma unroll
        for (int i = 0; i < kSteps * kVec; ++i) {
            const int d = (i / kVec * kLanes + lane) * kVec + i % kVec;
            if (lane_id() < kLanes && d < kHeadDim) block_acc[at * kHeadDim + d] = acc[h][i];
        }
    }
}

// One piece from slots to `out`, or to `partials` and, for the last of its row and pair to arrive, to `out`.
template <typename T, int kHeadDim, int kHeads, bool kSoftCap, int kThreads>
__device__ __forceinline__ void run_piece(
    const Piece& piece, const T* q, const T* keys, const T* values, const int32_t* positions, const int32_t* cache_rows,
    const float* slopes, T* out, float* partials, uint32_t* counters, int num_heads, int num_kv_heads, int64_t max_context, float scale,
    float soft_cap) {
    constexpr int kWarps = kThreads / kWarp, kRecord = kHeads * (kHeadDim + 2);
    SMEM(float, block_m, kWarps * kHeads);
    SMEM(float, block_l, kWarps * kHeads);
    SMEM(float, block_acc, kWarps * kHeads * kHeadDim);
    const int group = num_heads / num_kv_heads, head_tiles = (group + kHeads - 1) / kHeads;
    const int kv_head = piece.pair / head_tiles, in_group = piece.pair % head_tiles * kHeads;
    const int head = kv_head * group + in_group, heads = min(kHeads, group - in_group);
    const int64_t query_at = (static_cast<int64_t>(piece.row) * num_heads + head) * kHeadDim;
    const int64_t cache_at = (static_cast<int64_t>(cache_rows[piece.row]) * num_kv_heads + kv_head) * max_context * kHeadDim;

    attend<T, kHeadDim, kHeads, kSoftCap, kThreads>(
        q + query_at, keys + cache_at, values + cache_at, slopes ? slopes + head : nullptr, heads, positions[piece.row], piece.first,
        piece.last, scale, soft_cap, block_m, block_l, block_acc);
    __syncthreads();

    float* record = partials + piece.record_at(piece.index) * kRecord;
    for (int i = threadIdx.x; i < heads * kHeadDim; i += kThreads) {
        const int h = i / kHeadDim, d = i % kHeadDim;
        float m = kLowest, l = 0.0f, acc = 0.0f;
#pragma unroll
        for (int w = 0; w < kWarps; ++w) {
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
    for (int i = threadIdx.x; i < heads * kHeadDim; i += kThreads) {
        const int h = i / kHeadDim;
        float m = kLowest, l = 0.0f, acc = 0.0f;
#pragma unroll 4
        for (int part = 0; part < piece.parts; ++part) {
            const float* other = partials + piece.record_at(part) * kRecord;
            float keep, take;
            join(m, l, other[kHeads * kHeadDim + 2 * h], other[kHeads * kHeadDim + 2 * h + 1], keep, take);
            acc = acc * keep + other[i] * take;
        }
        out[query_at + i] = from_float<T>(acc / l);
    }
}

// One resident block is all that is asked for: left to itself, ptxas spills a few bytes to fit a third or fourth.
template <typename T, int kHeadDim, int kHeads, bool kSoftCap, bool kStream, int kTile, int kThreads>
__global__ __launch_bounds__(kThreads, 1) void attention_decode(
    const T* q, const T* keys, const T* values, const int32_t* positions,
    const int32_t* cache_rows, const float* __restrict__ slopes, T* __restrict__ out, float* partials, uint32_t* counters,
    int32_t rows, int32_t num_heads, int32_t num_kv_heads, int64_t max_context, int32_t window, float scale, float soft_cap) {
    static_assert(kHeadDim % 8 == 0 && kHeadDim <= 256, "head_dim is a multiple of 8 up to 256");
    const int64_t block = blockIdx.x;
    pdl_wait();
    pdl_trigger();
    if constexpr (!kStream) {
        const int row = blockIdx.z, pair = blockIdx.y;
        const Slots<kTile> slots(positions[row], window);
        const int64_t tiles = slots.tiles(), parts = min(tiles, static_cast<int64_t>(gridDim.x));
        if (block >= parts) return;
        const int64_t record = (static_cast<int64_t>(row) * gridDim.y + pair) * gridDim.x;
        const int first = slots.at(static_cast<int>(tiles * block / parts)), last = slots.at(static_cast<int>(tiles * (block + 1) / parts));
        const Piece piece = {row, pair, first, last, static_cast<int>(block), static_cast<int>(parts), record, record, 1};
        run_piece<T, kHeadDim, kHeads, kSoftCap, kThreads>(
            piece, q, keys, values, positions, cache_rows, slopes, out, partials, counters, num_heads, num_kv_heads, max_context, scale,
            soft_cap);
    } else {
        // The list of tiles goes row by row, in a row pair by pair. Block b of n takes tiles total * b / n .. total * (b + 1) / n.
        const int group = num_heads / num_kv_heads, pairs = num_kv_heads * ((group + kHeads - 1) / kHeads);
        int64_t total = 0;
        for (int row = 0; row < rows; ++row) total += static_cast<int64_t>(Slots<kTile>(positions[row], window).tiles()) * pairs;
        const int64_t blocks = min(total, static_cast<int64_t>(gridDim.x));
        if (block >= blocks) return;
        int64_t at = total * block / blocks;
        const int64_t stop = total * (block + 1) / blocks;
        int64_t row_start = 0;
        for (int row = 0; row < rows && at < stop; ++row) {
            const Slots<kTile> slots(positions[row], window);
            const int64_t tiles = slots.tiles(), row_stop = row_start + tiles * pairs;
            while (at < min(stop, row_stop)) {
                const int pair = static_cast<int>((at - row_start) / tiles);
                const int64_t start = row_start + pair * tiles, end = min(stop, start + tiles);
                // The largest b with total * b / blocks <= t, rounded down, is the block that has tile t.
                const int64_t first_block = ((start + 1) * blocks - 1) / total, last_block = ((start + tiles) * blocks - 1) / total;
                // A block leaves at most two partial pieces: one that another block began (record 2 b) and one that it begins (2 b + 1).
                const Piece piece = {row, pair, slots.at(static_cast<int>(at - start)), slots.at(static_cast<int>(end - start)),
                                     static_cast<int>(block - first_block), static_cast<int>(last_block - first_block + 1),
                                     2 * first_block + 1, 2 * first_block, 2};
                run_piece<T, kHeadDim, kHeads, kSoftCap, kThreads>(
                    piece, q, keys, values, positions, cache_rows, slopes, out, partials, counters, num_heads, num_kv_heads, max_context,
                    scale, soft_cap);
                at = end;
            }
            row_start = row_stop;
        }
    }
}
