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
// The blocks of a row share its first reading, whose histograms they add up; who comes last gathers the tokens down to the class that was
// found, which are few, and goes on with those alone. Without a filter each block draws from its share, and the last takes the best.
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
// scratch: classes      (rows, 3, 256) uint32 and counters (rows,) uint32, zero before and after
//         firsts        (rows, blocks) uint64;  survivors  (rows, vocab) int32
// out:    ring          (ring_size, rows, 2) int32, mapped host memory: (token, sequence + 1) at sequence % ring_size, token first,
//                       -1 for a row that had finished, -2 for one whose best logit is NaN or infinite, which finishes it
// launch: grid (blocks, rows), blocks 1 where there are no candidates; block (kThreads), no dynamic shared memory
// needs:  vocab from 1 to 2^24
// moves:  greedy rows * 8 * num_best (or rows * 4 * vocab) bytes; otherwise rows * 4 * vocab, twice with a filter, once more without
//         candidates; from L2
// source: Salmon et al., "Parallel random numbers: as easy as 1, 2, 3" (SC 2011); eet_demo/engine/sampling.py is the definition.
//         EET samples on the host, through transformers

#include "ranks.cuh"

constexpr int kNear = 2048;   // survivors that shared memory holds
constexpr int kFinished = -1, kNotFinite = -2, kAnother = -3;   // kAnother: a block that comes later has the token

// The token of the first rank of a row, unless its logit is NaN or +infinity, or nothing is above -infinity.
__device__ __forceinline__ int token_of(Rank first) {
    const uint32_t descending = static_cast<uint32_t>(first >> 32);
    return descending <= 0x007FFFFFu || descending >= 0xFF800000u ? kNotFinite : static_cast<int>(first & 0xFFFFFFFFull);
}

// Of a row: what a launch's blocks leave for each other, and what is drawn.
struct Shared {
    Histogram classes;
    uint32_t* counter;
    Rank* firsts;
    int32_t* survivors;
};
struct Filters {
    int top_k;   // 0 for none
    double top_p;
};
struct Noise {
    int step, request_row;
    uint2 seed;
    __device__ __forceinline__ float operator()(int id) const {
        const uint4 words = philox4x32_10(make_uint4(id, step, request_row, 0), seed);
        return -logf(-logf((static_cast<float>(words.x >> 9) + 0.5f) * 1.1920928955078125e-7f));
    }
};

// The first of all blocks' ranks, for the last of them to call; ~0 in the others.
template <int kThreads> __device__ __forceinline__ Rank first_of_all(Rank first, const Shared& shared, bool& last) {
    first = block_first<kThreads>(first);
    last = true;
    if (gridDim.x == 1) return first;
    if (threadIdx.x == 0) shared.firsts[blockIdx.x] = first;
    last = is_last_block(shared.counter, gridDim.x);
    if (!last) return ~0ull;
    for (int i = threadIdx.x; i < static_cast<int>(gridDim.x); i += kThreads) first = min(first, load_fresh(shared.firsts + i));
    return block_first<kThreads>(first);
}

// This block's histogram, in shared memory, becomes that of the whole row in the last block; false in the others.
template <int kThreads> __device__ __forceinline__ bool add_up(const Histogram& own, const Shared& shared) {
    __syncthreads();
    if (gridDim.x == 1) return true;
    for (int c = threadIdx.x; c < kClasses; c += kThreads)
        if (own.words[c]) shared.classes.add(c, own.words[c], own.mass(c));
    if (!is_last_block(shared.counter, gridDim.x)) return false;
    for (int c = threadIdx.x; c < 3 * kClasses; c += kThreads) {
        own.words[c] = load_fresh(shared.classes.words + c);
        shared.classes.words[c] = 0;
    }
    __syncthreads();
    return true;
}

// What the filters keep, of which the best by logit and noise is drawn.
template <int kThreads>
__device__ __forceinline__ int draw_filtered(const Scaled& row, const Filters& filters, const Noise& noise, const Shared& shared, int from, int to) {
    SMEM(uint32_t, words, 3 * kClasses);
    SMEM(int32_t, near, kNear);
    SMEM(uint32_t, size, 1);
    const Histogram histogram = {words};
    if (threadIdx.x == 0) size[0] = 0;
    histogram.clear<kThreads>();
    for_each<kThreads>(row.logits, from, to, [&](int, float logit) {
        const float x = row.at(logit);
        histogram.add(row.step(x), 1, filters.top_k ? 0 : row.mass(x));
    });
    if (!add_up<kThreads>(histogram, shared)) return kAnother;

    const Found found = filters.top_k ? find_class<false>(histogram, 0, filters.top_k, 0.0) : find_class<true>(histogram, 0, 0, filters.top_p);
    int32_t* ids = found.through <= kNear ? near : shared.survivors;
    for_each<kThreads>(row.logits, 0, row.vocab, [&](int id, float logit) {
        if (row.step(row.at(logit)) <= found.at) ids[atomicAdd(size, 1u)] = id;
    });
    __syncthreads();
    const int n = found.through;

    Cut cut = {kClasses, ~0ull};
    if (filters.top_k == 0) {
        cut = refine<true, kThreads>(row, ids, n, cut, found, histogram);
    } else {
        cut = refine<false, kThreads>(row, ids, n, cut, found, histogram);
        if (filters.top_p < 1.0) {
            histogram.clear<kThreads>();
            for (int i = threadIdx.x; i < n; i += kThreads) {
                const float x = row.at(load_fresh(row.logits + ids[i]));
                if (cut.keeps(row.step(x), rank_of(x, ids[i]))) histogram.add(row.step(x), 1, row.mass(x));
            }
            __syncthreads();
            cut = refine<true, kThreads>(row, ids, n, cut, find_class<true>(histogram, 0, 0, filters.top_p), histogram);
        }
    }
    Rank first = ~0ull;
    for (int i = threadIdx.x; i < n; i += kThreads) {
        const float x = row.at(load_fresh(row.logits + ids[i]));
        if (cut.keeps(row.step(x), rank_of(x, ids[i]))) first = min(first, rank_of(x + noise(ids[i]), ids[i]));
    }
    return static_cast<int>(block_first<kThreads>(first) & 0xFFFFFFFFull);
}

template <int kThreads>
__device__ __forceinline__ int draw(
    Scaled row, const float* best_logits, int num_best, const Filters& filters, const Noise& noise, const Shared& shared, int from, int to) {
    float top = -__int_as_float(0x7f800000);
    for_each<kThreads>(best_logits ? best_logits : row.logits, 0, best_logits ? num_best : row.vocab, [&](int, float logit) {
        const float x = row.at(logit);
        top = x != x ? __int_as_float(0x7f800000) : fmaxf(top, x);
    });
    row.top = block_max<kThreads>(top);
    if (!(fabsf(row.top) < __int_as_float(0x7f800000))) {
        const bool last = gridDim.x == 1 || is_last_block(shared.counter, gridDim.x);
        return last ? kNotFinite : kAnother;
    }
    row.unit = static_cast<double>(1ull << (30 + __clz(row.vocab)));   // vocab < 2^(32 - clz)
    if (filters.top_k || filters.top_p < 1.0) return draw_filtered<kThreads>(row, filters, noise, shared, from, to);
    Rank first = ~0ull;
    for_each<kThreads>(row.logits, from, to, [&](int id, float logit) { first = min(first, rank_of(row.at(logit) + noise(id), id)); });
    bool last;
    first = first_of_all<kThreads>(first, shared, last);
    return last ? static_cast<int>(first & 0xFFFFFFFFull) : kAnother;
}

template <int kThreads>
__global__ __launch_bounds__(kThreads) void sample(
    const float* logits, const float* best_logits, const int32_t* best_ids,
    const uint32_t* __restrict__ settings, const int32_t* __restrict__ stop_ids, const int32_t* __restrict__ request_rows,
    int32_t* token_ids, int32_t* positions, int32_t* steps, int32_t* finished, int32_t* sequences, int32_t* ring, uint32_t* classes,
    uint32_t* counters, Rank* firsts, int32_t* survivors, int32_t vocab, int32_t num_best, int32_t num_stops, int32_t ring_size) {
    const int row = blockIdx.y, block = blockIdx.x, blocks = gridDim.x;
    pdl_wait();
    pdl_trigger();
    const float temperature = __uint_as_float(settings[0]);
    const bool greedy = temperature == 0.0f;
    if (block && greedy && best_logits) return;   // the first block alone reads the candidates
    const float* own = logits + static_cast<int64_t>(row) * vocab;
    const float* best = best_logits ? best_logits + static_cast<int64_t>(row) * num_best : nullptr;
    const int share = (vocab + blocks - 1) / blocks, from = min(vocab, block * share), to = min(vocab, from + share);
    const Shared shared = {{classes + static_cast<int64_t>(row) * 3 * kClasses}, counters + row, firsts + static_cast<int64_t>(row) * blocks,
                           survivors + static_cast<int64_t>(row) * vocab};
    int token = kFinished;
    if (finished[row]) {
        if (block) return;
    } else if (greedy) {
        Rank first = ~0ull;
        if (best) {
            const int32_t* ids = best_ids + static_cast<int64_t>(row) * num_best;
            for_each<kThreads>(best, 0, num_best, [&](int i, float x) { first = min(first, rank_of(x, load_fresh(ids + i))); });
        } else {
            for_each<kThreads>(own, 0, vocab, [&](int id, float x) { first = min(first, rank_of(x, id)); });
        }
        token = token_of(block_first<kThreads>(first));
    } else {
        union { uint32_t words[2]; double value; } top_p;
        top_p.words[0] = settings[2];
        top_p.words[1] = settings[3];
        const int top_k = static_cast<int>(settings[1]);
        token = draw<kThreads>(
            {own, vocab, temperature, 0.0f, 1.0}, best, num_best, {top_k < vocab ? top_k : 0, top_p.value},
            {steps[row], request_rows[row], make_uint2(settings[4], settings[5])}, shared, from, to);
        if (token == kAnother) return;
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
    st_system_pair(ring + (static_cast<int64_t>(sequence % ring_size) * gridDim.y + row) * 2, token, sequence + 1);
    sequences[row] = sequence + 1;
}
