// Attention of one block over a range of slots, for the query heads of one KV head: an online softmax, each warp with its own slots.
// Part of attention_decode.cu.
//
//     attend(...) leaves, for set w (of a warp, or a team of two) and head h: block_m[w][h], the maximum of the scores (times log2 e);
//     block_l[w][h], the sum of their powers of two relative to it; block_acc[w][h][.], the values weighted by those powers
#pragma once

#include "common.cuh"

constexpr int kTileHeads = 4;   // from which on tensor cores multiply, for half types
constexpr float kLowest = -3.0e38f;   // the running maximum of no slots: finite, so that differences are never NaN

// How neighbouring lanes share a slot's head_dim values: 16-byte vectors, kSteps a lane.
template <typename T, int kHeadDim> struct Lanes {
    static constexpr int kVec = 16 / sizeof(T);
    static constexpr int kVectors = kHeadDim / kVec;
    static constexpr int kLanes = kVectors > 16 ? 32 : kVectors > 8 ? 16 : kVectors > 4 ? 8 : kVectors > 2 ? 4 : kVectors;
    static constexpr int kSteps = (kVectors + kLanes - 1) / kLanes;
};

// Warps that share their slots where tensor cores multiply, and sets of results that a block of kThreads leaves.
template <int kHeadDim> constexpr int kTeamWarps = kHeadDim > 128 ? 2 : 1;
template <typename T, int kHeads> constexpr bool kOnTiles = sizeof(T) == 2 && kHeads >= kTileHeads;
template <typename T, int kHeadDim, int kHeads, int kThreads>
constexpr int kResultSets = kThreads / kWarp / (kOnTiles<T, kHeads> ? kTeamWarps<kHeadDim> : 1);

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

// Lanes multiply: for up to 3 heads, and float32. The slots of the next step are under way while those of this one are used.
template <typename T, int kHeadDim, int kHeads, bool kSoftCap, int kThreads>
__device__ __forceinline__ void attend_lanes(
    const T* q, const T* keys, const T* values, const float* slopes, int heads, int position, int first, int last, float scale,
    float soft_cap, float* block_m, float* block_l, float* block_acc) {
    using L = Lanes<T, kHeadDim>;
    constexpr int kVec = L::kVec, kSteps = L::kSteps, kLanes = L::kLanes, kGroups = kThreads / kLanes;
    constexpr int kUnroll = kHeads * kSteps * kVec <= 32 ? 4 : 2;   // slots a lane, and as many under way: what registers allow
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

    constexpr int kStride = kGroups * kUnroll;
    Vec<T, kVec> next_k[kUnroll][kSteps], next_v[kUnroll][kSteps];
    const auto fetch = [&](int base) {
#pragma unroll
        for (int u = 0; u < kUnroll; ++u) {
            const int slot = base + u * kGroups + group;
            load_slot<kSteps>(next_k[u], keys + static_cast<int64_t>(slot) * kHeadDim, lane, kLanes, L::kVectors, slot < last);
            load_slot<kSteps>(next_v[u], values + static_cast<int64_t>(slot) * kHeadDim, lane, kLanes, L::kVectors, slot < last);
        }
    };
    fetch(first);
    for (int base = first; base < last; base += kStride) {
        Vec<T, kVec> k[kUnroll][kSteps], v[kUnroll][kSteps];
#pragma unroll
        for (int u = 0; u < kUnroll; ++u)
#pragma unroll
            for (int i = 0; i < kSteps; ++i) k[u][i] = next_k[u][i], v[u][i] = next_v[u][i];
        fetch(base + kStride);
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

// Tensor cores multiply: from 4 heads of a half type on, where lanes could not keep up with the memory. A team has tiles of 16 slots, of
// which the next is on its way to shared memory while this one is used; heads are the rows of the products, 8 of the 16 in use. A team is
// a warp; past 128 values a head it is two, who both have the scores and each half of the columns: one has no registers for them all.
template <typename T, int kHeadDim, int kHeads, bool kSoftCap, int kThreads>
__device__ __forceinline__ void attend_tiles(
    const T* q, const T* keys, const T* values, const float* slopes, int heads, int position, int first, int last, float scale,
    float soft_cap, float* block_m, float* block_l, float* block_acc) {
    constexpr int kTeam = kTeamWarps<kHeadDim>, kTeams = kThreads / kWarp / kTeam;
    constexpr int kPadded = (kHeadDim + 16 * kTeam - 1) / (16 * kTeam) * 16 * kTeam;
    constexpr int kStride = kPadded + 8;   // the 8 keep ldmatrix free of bank conflicts
    constexpr int kSlots = 16, kSteps = kPadded / 16, kColumns = kPadded / 8 / kTeam, kTile = kSlots * kStride;
    static_assert(kHeads <= 8, "heads are 8 rows of a product");
    static_assert(kTeam == 1 || kTeams == 1, "a team of two meets at the block's barrier");
    SMEM(T, tiles, kTeams * 4 * kTile);
    const int lane = lane_id(), head = lane / 4, pair = lane % 4 * 2, team = warp_id() / kTeam, part = warp_id() % kTeam;
    T* own = tiles + team * 4 * kTile;   // two stages of keys and values
    const auto meet = [] {
        if constexpr (kTeam == 1) __syncwarp();
        else __syncthreads();
    };
    const auto stage_of = [=](int tile) { return own + tile % 2 * 2 * kTile; };
    const auto slot_of = [=](int tile) { return first + (tile * kTeams + team) * kSlots; };
    const auto copy = [&](int tile) {   // slots from `last` on and columns past the head are zeros
        T* stage = stage_of(tile);
#pragma unroll 4
        for (int i = 0; i < kSlots * kPadded / 8 / (kTeam * kWarp); ++i) {
            const int chunk = (i * kTeam + part) * kWarp + lane, row = chunk / (kPadded / 8), column = chunk % (kPadded / 8) * 8;
            const int slot = slot_of(tile) + row;
            const bool valid = slot < last && column < kHeadDim;
            const int64_t at = valid ? static_cast<int64_t>(slot) * kHeadDim + column : 0;
            cp_async16_or_zero(stage + row * kStride + column, keys + at, valid);
            cp_async16_or_zero(stage + kTile + row * kStride + column, values + at, valid);
        }
    };

    uint32_t query[kSteps][4];
#pragma unroll
    for (int s = 0; s < kSteps; ++s) {
#pragma unroll
        for (int i = 0; i < 2; ++i) {
            const int column = 16 * s + 8 * i + pair;
            union { Vec<T, 2> values; uint32_t word; } u;
            u.word = 0;
            if (head < heads && column < kHeadDim) u.values = load_fresh<2>(q + head * kHeadDim + column);
            query[s][2 * i] = u.word;
            query[s][2 * i + 1] = 0;
        }
    }
    const float slope = slopes && head < heads ? slopes[head] : 0.0f;
    float m = kLowest, l = 0.0f, acc[kColumns][4] = {};
    if (slot_of(0) < last) copy(0);
    cp_async_commit();
    for (int tile = 0; slot_of(tile) < last; ++tile) {
        if (slot_of(tile + 1) < last) copy(tile + 1);
        cp_async_commit();
        cp_async_wait<1>();
        meet();
        const T* stage = stage_of(tile);
        float score[2][4] = {};   // of 8 slots each: score[n][c] is that of slot 8n + pair + c
#pragma unroll
        for (int s = 0; s < kSteps; ++s) {
            uint32_t k[4];
            ldmatrix_x4(k, stage + (lane % 8 + lane / 16 * 8) * kStride + 16 * s + lane / 8 % 2 * 8);
            const uint32_t low[2] = {k[0], k[1]}, high[2] = {k[2], k[3]};
            mma_16816<T>(score[0], query[s], low, score[0]);
            mma_16816<T>(score[1], query[s], high, score[1]);
        }
        float top = m;
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            float& x = score[i / 2][i % 2];
            const int slot = slot_of(tile) + i / 2 * 8 + pair + i % 2;
            x *= scale;
            if constexpr (kSoftCap) x = soft_cap * tanhf(x / soft_cap);
            x = slot < last ? (x - slope * static_cast<float>(position - slot)) * kLog2E : kLowest;
            top = fmaxf(top, x);
        }
        top = warp_max<4>(top);
        const float keep = exp2f(m - top);
        m = top;
        l *= keep;
        float weight[4];
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            weight[i] = slot_of(tile) + i / 2 * 8 + pair + i % 2 < last ? exp2f(score[i / 2][i % 2] - top) : 0.0f;
            l += weight[i];
        }
        const uint32_t weights[4] = {pack2<T>(weight[0], weight[1]), 0, pack2<T>(weight[2], weight[3]), 0};
#pragma unroll
        for (int n = 0; n < kColumns; n += 2) {
            uint32_t v[4];
            ldmatrix_x4_trans(v, stage + kTile + (lane % 8 + lane / 8 % 2 * 8) * kStride + 8 * (part * kColumns + n) + lane / 16 * 8);
            const uint32_t low[2] = {v[0], v[1]}, high[2] = {v[2], v[3]};
#pragma unroll
            for (int i = 0; i < 2; ++i) acc[n][i] *= keep, acc[n + 1][i] *= keep;
            mma_16816<T>(acc[n], weights, low, acc[n]);
            mma_16816<T>(acc[n + 1], weights, high, acc[n + 1]);
        }
        meet();
    }

    l = warp_sum<4>(l);
    if (head >= kHeads) return;
    const int at = team * kHeads + head;
    if (pair == 0 && part == 0) {
        block_m[at] = m;
        block_l[at] = l;
    }
#pragma unroll
    for (int n = 0; n < kColumns; ++n) {
#pragma unroll
        for (int i = 0; i < 2; ++i) {
            const int column = 8 * (part * kColumns + n) + pair + i;
            if (column < kHeadDim) block_acc[at * kHeadDim + column] = acc[n][i];
        }
    }
}

template <typename T, int kHeadDim, int kHeads, bool kSoftCap, int kThreads>
__device__ __forceinline__ void attend(
    const T* q, const T* keys, const T* values, const float* slopes, int heads, int position, int first, int last, float scale,
    float soft_cap, float* block_m, float* block_l, float* block_acc) {
    if constexpr (kOnTiles<T, kHeads>)
        attend_tiles<T, kHeadDim, kHeads, kSoftCap, kThreads>(
            q, keys, values, slopes, heads, position, first, last, scale, soft_cap, block_m, block_l, block_acc);
    else
        attend_lanes<T, kHeadDim, kHeads, kSoftCap, kThreads>(
            q, keys, values, slopes, heads, position, first, last, scale, soft_cap, block_m, block_l, block_acc);
}
