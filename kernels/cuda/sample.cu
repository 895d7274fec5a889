// sample: the next token of each row, and everything that a next step needs, without the host.
//
//     greedy (temperature 0): argmax(logits), ties to the lower id
//     otherwise: x = logits / temperature; ranked by x, ties to the lower id, top-k keeps the first k; top-p keeps a token while the
//     mass exp(x - max x) of those before it is below p of the whole; of these argmax(x + gumbel(id)) wins, ties to the lower id
//     gumbel(id) = -log(-log(u)), u = ((word >> 9) + 0.5) / 2^23, word = philox4x32_10((id, step, row, 0), seed)[0]
//
// Nothing is sorted. What a filter keeps is a prefix of the ranking, so it is found by its last token: a histogram of weights (ones for
// top-k, masses for top-p) over 256 classes of rank, the class in which the weight reaches its target, then a histogram inside this class,
// until one token is left. The first classes are steps of 1/8 in x, which spread a model's logits far better than the bits of a float do;
// then come the bits of x and, among equals, those of the id. Masses are fixed point: sums are exact, whatever the order they are added in.
//
// in:     logits        (rows, vocab) float32
//         best_logits, best_ids   (rows, num_best) float32 and int32: the best tokens of norm_lm_head's blocks; greedy reads only these.
//                                 Null: the logits are read
//         settings      (6,) uint32: temperature as float32, top_k, top_p as float64 (low, high), seed (low, high)
//         stop_ids      (num_stops,) int32; -1 for an unused place
//         request_rows  (rows,) int32, the counter's row
// in/out: token_ids, positions, steps   (rows,) int32: the drawn token, and one more slot and step, unless the row has finished
//         finished      (rows,) int32: 1 from a stop token on, which is still reported
//         sequences     (rows,) int32: launches so far
// out:    ring          (ring_size, rows, 2) int32, mapped host memory: (token, sequence + 1) at sequence % ring_size, token first,
//                       -1 for a row that had finished, -2 for one whose best logit is NaN or infinite, which finishes it
// launch: grid (rows), block (kThreads), no dynamic shared memory
// needs:  vocab from 1 to 2^24
// moves:  greedy rows * 8 * num_best (or rows * 4 * vocab) bytes; otherwise rows * 4 * vocab a pass, from L2: 2 passes, 2 to 8 more a filter
// source: Salmon et al., "Parallel random numbers: as easy as 1, 2, 3" (SC 2011); eet_demo/engine/sampling.py is the definition.
//         EET samples on the host, through transformers

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

constexpr int kFinished = -1, kNotFinite = -2;

// The token of the first rank of a row, unless its logit is NaN or +infinity, or nothing is above -infinity.
__device__ __forceinline__ int token_of(Rank first) {
    const uint32_t descending = static_cast<uint32_t>(first >> 32);
    return descending <= 0x007FFFFFu || descending >= 0xFF800000u ? kNotFinite : static_cast<int>(first & 0xFFFFFFFFull);
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

// visit(i, values[i]) for every i < count, dealt to the threads; eight loads are under way at a time.
template <int kThreads, typename Visit> __device__ __forceinline__ void for_each(const float* values, int count, Visit visit) {
    constexpr int kUnroll = 8;
    for (int base = threadIdx.x; base < count; base += kThreads * kUnroll) {
        float x[kUnroll];
#pragma unroll
        for (int u = 0; u < kUnroll; ++u) x[u] = base + u * kThreads < count ? values[base + u * kThreads] : 0.0f;
#pragma unroll
        for (int u = 0; u < kUnroll; ++u)
            if (base + u * kThreads < count) visit(base + u * kThreads, x[u]);
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
    __device__ __forceinline__ unsigned long long mass(float x) const {
        const float difference = x - top;
        return difference > -50.0f ? static_cast<unsigned long long>(exp(static_cast<double>(difference)) * unit + 0.5) : 0ull;
    }
};

// Where the kept weight reaches its target; top-k's target is k, top-p's a share of the weight that `within` keeps.
template <bool kMass, int kThreads>
__device__ __forceinline__ Cut narrow(const Scaled& row, const Cut& within, int top_k, double top_p) {
    SMEM(unsigned long long, weights, kClasses);
    SMEM(int, counts, kClasses);
    SMEM(int, chosen, 2);
    constexpr int kLevels = 8, kPerLane = kClasses / kWarp;
    unsigned long long before = 0, target = top_k;   // of warp 0
    Cut cut = {0, 0};
    int last_shift = 64;
    for (int level = 0; level < kLevels; ++level) {
        const int shift = level == 0 ? 64 : level <= 4 ? 64 - 8 * level : 8 * (kLevels - 1 - level);   // bits 24..31 of an id are zero
        for (int c = threadIdx.x; c < kClasses; c += kThreads) {
            weights[c] = 0;
            counts[c] = 0;
        }
        if (threadIdx.x == 0) chosen[0] = -1;
        __syncthreads();
        for_each<kThreads>(row.logits, row.vocab, [&](int id, float logit) {
            const float x = row.at(logit);
            const int step = row.step(x);
            const Rank rank = rank_of(x, id);
            if (!within.keeps(step, rank)) return;
            if (level > 0 && step != cut.step) return;
            if (level > 1 && rank >> last_shift != cut.rank >> last_shift) return;
            const int at = level == 0 ? step : static_cast<int>(rank >> shift & (kClasses - 1));
            atomicAdd(&weights[at], kMass ? row.mass(x) : 1ull);
            atomicAdd(&counts[at], 1);
        });
        __syncthreads();
        if (warp_id() == 0) {
            unsigned long long sum = 0;
            for (int i = 0; i < kPerLane; ++i) sum += weights[lane_id() * kPerLane + i];
            unsigned long long through = sum;
            for (int offset = 1; offset < kWarp; offset *= 2) {
                const unsigned long long lower = __shfl_up_sync(kFullMask, through, offset);
                if (lane_id() >= offset) through += lower;
            }
            if (kMass && level == 0) {
                const double whole = static_cast<double>(__shfl_sync(kFullMask, through, kWarp - 1));
                target = max(1ull, static_cast<unsigned long long>(ceil(top_p * whole)));
            }
            through += before;
            const bool here = through >= target && through - sum < target;
            unsigned long long ahead = through - sum;
            if (here) {
                int c = lane_id() * kPerLane;
                for (; ahead + weights[c] < target; ++c) ahead += weights[c];
                chosen[0] = c;
                chosen[1] = counts[c];
            }
            const uint32_t finder = __ballot_sync(kFullMask, here);
            before = __shfl_sync(kFullMask, ahead, finder ? __ffs(finder) - 1 : 0);
        }
        __syncthreads();
        const int at = chosen[0], count = chosen[1];
        __syncthreads();
        if (at < 0) return within;   // there is less weight than the target: all of it stays
        if (level == 0) {
            cut = {at, ~0ull};
        } else {
            const Rank above = level == 1 ? 0 : cut.rank >> last_shift << last_shift;
            cut.rank = above | static_cast<Rank>(at) << shift | ((1ull << shift) - 1);
            last_shift = shift;
        }
        if (count == 1) break;
    }
    return within.keeps(cut.step, cut.rank) ? cut : within;   // the last class may reach past what `within` keeps of it
}

__device__ __forceinline__ float gumbel(int id, int step, int request_row, uint2 seed) {
    const uint4 words = philox4x32_10(make_uint4(id, step, request_row, 0), seed);
    return -logf(-logf((static_cast<float>(words.x >> 9) + 0.5f) * 1.1920928955078125e-7f));
}

template <int kThreads>
__device__ __forceinline__ int draw(const Scaled& logits, int top_k, double top_p, int step, int request_row, uint2 seed) {
    float top = -__int_as_float(0x7f800000);
    for_each<kThreads>(logits.logits, logits.vocab, [&](int, float logit) {
        const float x = logits.at(logit);
        top = x != x ? __int_as_float(0x7f800000) : fmaxf(top, x);
    });
    Scaled row = logits;
    row.top = block_max<kThreads>(top);
    if (!(fabsf(row.top) < __int_as_float(0x7f800000))) return kNotFinite;
    row.unit = static_cast<double>(1ull << (30 + __clz(row.vocab)));   // vocab < 2^(32 - clz)
    Cut cut = {kClasses, ~0ull};
    if (top_k > 0 && top_k < row.vocab) cut = narrow<false, kThreads>(row, cut, top_k, 0.0);
    if (top_p < 1.0) cut = narrow<true, kThreads>(row, cut, 0, top_p);
    Rank first = ~0ull;
    for_each<kThreads>(row.logits, row.vocab, [&](int id, float logit) {
        const float x = row.at(logit);
        if (cut.keeps(row.step(x), rank_of(x, id))) first = min(first, rank_of(x + gumbel(id, step, request_row, seed), id));
    });
    return static_cast<int>(block_first<kThreads>(first) & 0xFFFFFFFFull);
}

template <int kThreads>
__global__ __launch_bounds__(kThreads) void sample(
    const float* logits, const float* best_logits, const int32_t* best_ids,
    const uint32_t* __restrict__ settings, const int32_t* __restrict__ stop_ids, const int32_t* __restrict__ request_rows,
    int32_t* token_ids, int32_t* positions, int32_t* steps, int32_t* finished, int32_t* sequences, int32_t* ring, int32_t vocab,
    int32_t num_best, int32_t num_stops, int32_t ring_size) {
    const int row = blockIdx.x;
    pdl_wait();
    pdl_trigger();
    const float temperature = __uint_as_float(settings[0]);
    int token = kFinished;
    if (!finished[row]) {
        if (temperature == 0.0f) {
            const float* values = best_logits ? best_logits : logits;
            const int count = best_logits ? num_best : vocab;
            const int64_t start = static_cast<int64_t>(row) * count;
            Rank first = ~0ull;
            for_each<kThreads>(values + start, count, [&](int i, float x) {
                first = min(first, rank_of(x, best_logits ? best_ids[start + i] : i));
            });
            token = token_of(block_first<kThreads>(first));
        } else {
            union { uint32_t words[2]; double value; } top_p;
            top_p.words[0] = settings[2];
            top_p.words[1] = settings[3];
            const Scaled scaled = {logits + static_cast<int64_t>(row) * vocab, vocab, temperature, 0.0f, 1.0};
            token = draw<kThreads>(
                scaled, static_cast<int>(settings[1]), top_p.value, steps[row], request_rows[row], make_uint2(settings[4], settings[5]));
        }
    }

    if (threadIdx.x != 0) return;
    if (token >= 0) {
        token_ids[row] = token;
        positions[row] += 1;
        steps[row] += 1;
        for (int i = 0; i < num_stops; ++i)
            if (stop_ids[i] == token) finished[row] = 1;
    }
    if (token == kNotFinite) finished[row] = 1;
    const int sequence = sequences[row];
    int32_t* entry = ring + (static_cast<int64_t>(sequence % ring_size) * gridDim.x + row) * 2;
    st_system(entry, token);
    st_system(entry + 1, sequence + 1);
    sequences[row] = sequence + 1;
}
