// The ranking of a vocabulary, and where a filter cuts it: a prefix is known by its last token, so nothing is sorted. Part of sample.cu.
#pragma once

#include "common.cuh"

constexpr int kClasses = 256;

// (~order of x, id): the smaller ranks first.
using Rank = unsigned long long;

__device__ __forceinline__ Rank rank_of(float x, int id) {
    const uint32_t bits = __float_as_uint(x + 0.0f);   // the zeros are equal
    const uint32_t ascending = bits & 0x80000000u ? ~bits : bits | 0x80000000u;
    const uint32_t descending = x != x ? 0u : ~ascending;   // NaN first: it must be seen
    return static_cast<Rank>(descending) << 32 | static_cast<uint32_t>(id);
}

// The first rank of the block, in every thread.
template <int kThreads> __device__ __forceinline__ Rank block_first(Rank rank) {
    constexpr int kWarps = kThreads / kWarp;
    SMEM(Rank, firsts, kWarps);
#pragma unroll
    for (int offset = kWarp / 2; offset > 0; offset /= 2) rank = min(rank, __shfl_xor_sync(kFullMask, rank, offset));
    if (lane_id() == 0) firsts[warp_id()] = rank;
    __syncthreads();
    for (int w = 0; w < kWarps; ++w) rank = min(rank, firsts[w]);
    __syncthreads();
    return rank;
}

// visit(i, values[i]) for every first <= i < last, dealt to the threads; eight loads are under way at a time.
template <int kThreads, typename Visit> __device__ __forceinline__ void for_each(const float* values, int first, int last, Visit visit) {
    constexpr int kUnroll = 8;
    for (int base = first + threadIdx.x; base < last; base += kThreads * kUnroll) {
        float x[kUnroll];
#pragma unroll
        for (int u = 0; u < kUnroll; ++u) x[u] = base + u * kThreads < last ? load_fresh(values + base + u * kThreads) : 0.0f;
#pragma unroll
        for (int u = 0; u < kUnroll; ++u)
            if (base + u * kThreads < last) visit(base + u * kThreads, x[u]);
    }
}

// The last token that is kept: those whose (step, rank) is not after it stay.
struct Cut {
    int step;
    Rank rank;
    __device__ __forceinline__ bool keeps(int other_step, Rank other) const { return other_step < step || (other_step == step && other <= rank); }
};

// A row's logits, divided by the temperature.
struct Scaled {
    const float* logits;
    int vocab;
    float temperature, top;
    double unit;   // of a mass in fixed point: the whole vocabulary fits 2^62

    __device__ __forceinline__ float at(float logit) const { return logit / temperature; }
    __device__ __forceinline__ int step(float x) const { return static_cast<int>(fminf((top - x) * 8.0f, kClasses - 1.0f)); }
    __device__ __forceinline__ Rank mass(float x) const {
        const float difference = x - top;
        return difference > -50.0f ? static_cast<Rank>(exp(static_cast<double>(difference)) * unit + 0.5) : 0ull;
    }
};

// Tokens and their mass, 64 bits in two words, by class. 32-bit atomics are the hardware's; a 64-bit one in shared memory is a loop.
struct Histogram {
    uint32_t* words;   // (3, kClasses): tokens, low words, high words

    template <int kThreads> __device__ __forceinline__ void clear() const {
        for (int c = threadIdx.x; c < 3 * kClasses; c += kThreads) words[c] = 0;
        __syncthreads();
    }
    __device__ __forceinline__ void add(int at, uint32_t tokens, Rank mass) const {
        atomicAdd(words + at, tokens);
        const uint32_t low = static_cast<uint32_t>(mass);
        uint32_t high = static_cast<uint32_t>(mass >> 32);
        if (low && atomicAdd(words + kClasses + at, low) > ~low) ++high;   // the sum passed 2^32
        if (high) atomicAdd(words + 2 * kClasses + at, high);
    }
    __device__ __forceinline__ Rank mass(int at) const { return static_cast<Rank>(words[2 * kClasses + at]) << 32 | words[kClasses + at]; }
};

// The class in which the weight reaches its target: the tokens in it, those through it, the weight before it. at -1: it never does.
struct Found {
    int at, count, through;
    Rank before, target;
};

// `before` is the weight in front of all classes. Weights are masses (kMass) or tokens; a target of 0 is `share` of them all.
template <bool kMass> __device__ __forceinline__ Found find_class(const Histogram& histogram, Rank before, Rank target, double share) {
    constexpr int kPerLane = kClasses / kWarp;
    SMEM(Found, found, 1);
    const auto weight = [&](int c) { return kMass ? histogram.mass(c) : static_cast<Rank>(histogram.words[c]); };
    if (threadIdx.x == 0) found[0].at = -1;
    __syncthreads();
    if (warp_id() == 0) {
        Rank sum = 0;
        int tokens = 0;
        for (int c = lane_id() * kPerLane; c < (lane_id() + 1) * kPerLane; ++c) sum += weight(c), tokens += histogram.words[c];
        Rank through = sum;
        int tokens_through = tokens;
        for (int offset = 1; offset < kWarp; offset *= 2) {
            const Rank lower = __shfl_up_sync(kFullMask, through, offset);
            const int fewer = __shfl_up_sync(kFullMask, tokens_through, offset);
            if (lane_id() >= offset) through += lower, tokens_through += fewer;
        }
        if (target == 0) {
            const double whole = static_cast<double>(__shfl_sync(kFullMask, through, kWarp - 1));
            target = max(1ull, static_cast<Rank>(ceil(share * whole)));
        }
        through += before;
        if (through >= target && through - sum < target) {
            int c = lane_id() * kPerLane, passed = tokens_through - tokens;
            Rank ahead = through - sum;
            for (; ahead + weight(c) < target; ++c) ahead += weight(c), passed += histogram.words[c];
            const int count = histogram.words[c];
            found[0] = {c, count, passed + count, ahead, target};
        }
    }
    __syncthreads();
    const Found result = found[0];
    __syncthreads();
    return result;
}

// The last kept token of the class that was found, by the bits of x and, among equals, those of the id, 8 at a time. `ids` are `n` tokens
// with all of that class among them.
template <bool kMass, int kThreads>
__device__ __forceinline__ Cut refine(const Scaled& row, const int32_t* ids, int n, const Cut& within, Found found, const Histogram& histogram) {
    constexpr int kLevels = 8;
    if (found.at < 0) return within;   // there is less weight than the target: all of it stays
    Cut cut = {found.at, ~0ull};
    int last_shift = 64;
    for (int level = 1; level < kLevels && found.count > 1; ++level) {
        const int shift = level <= 4 ? 64 - 8 * level : 8 * (kLevels - 1 - level);   // bits 24..31 of an id are zero
        histogram.clear<kThreads>();
        for (int i = threadIdx.x; i < n; i += kThreads) {
            const float x = row.at(load_fresh(row.logits + ids[i]));
            const int step = row.step(x);
            const Rank rank = rank_of(x, ids[i]);
            if (step != cut.step || !within.keeps(step, rank)) continue;
            if (level > 1 && rank >> last_shift != cut.rank >> last_shift) continue;
            histogram.add(static_cast<int>(rank >> shift & (kClasses - 1)), 1, kMass ? row.mass(x) : 0);
        }
        __syncthreads();
        found = find_class<kMass>(histogram, found.before, found.target, 0.0);
        const Rank above = level == 1 ? 0 : cut.rank >> last_shift << last_shift;
        cut.rank = above | static_cast<Rank>(found.at) << shift | ((1ull << shift) - 1);
        last_shift = shift;
    }
    return within.keeps(cut.step, cut.rank) ? cut : within;   // the class may reach past what `within` keeps of it
}
