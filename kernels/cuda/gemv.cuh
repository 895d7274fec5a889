// The product of up to 16 rows of activations with a weight matrix that is streamed once: the core of every decode projection.
//
//     result(i, b) = sum over k of W[row_of(i)][k] * x[b][k]         for the kTile weight rows of a block and kBatch activation rows
//
// A block is kGroups groups of kSplit warps. A group has kWarpRows weight rows; its warps split K, and their sums are added, in one
// fixed order, in shared memory. Up to 4 rows, and any number in float32, a lane multiplies one 16-byte vector of each of 4 weight rows
// a step; 8 and 16 rows of a half type go through tensor cores with 16 weight rows as M. Either way a lane has four 16-byte loads under
// way while it multiplies the four before, across the stages of x and across tiles too: `begin` starts the first before x is there.
//
// A launch has no more blocks than are resident at once, and each takes an equal, contiguous share of the weight rows, tile by tile: no
// block waits for another's end, and x is normalised and staged once a block (gemv.py). How rows are dealt to blocks changes no bit.
//
// x is staged through shared memory as T, kChunk columns at a time, so K has no limit. It lies there in units of 16 bytes, swizzled
// so that lanes 1, 2, 4 or 8 units apart (dense, Q8_0, Q4) meet no bank conflict.
//
// A tensor-core multiply sums over k in any order, so a lane needs no exchange: what it loaded, 4 values at a time, takes the places
// 2t, 2t + 1, 2t + 8, 2t + 9 of the fragments (common.cuh, mma_16816) in both operands.
// source: llama.cpp's mmvf.cu for 16-byte streaming with x in registers; the batch as N of mma as in llama.cpp PR 15131
#pragma once

#include "common.cuh"

constexpr int kStageBytes = 32 * 1024;

// ---- one 16-byte load of a weight row ----

template <typename T, int kFormat>
constexpr int kPackValues = kFormat == kDense ? 16 / static_cast<int>(sizeof(T)) : kFormat == kQ8_0 ? 16 : 32;

// Raw, so that nothing waits for it before it is used.
template <typename T, int kFormat> struct Pack {
    uint4 bits;
    Vec<half, kFormat == kQ4_1 ? 2 : 1> scale;   // unused for kDense
};

template <typename T, int kFormat>
__device__ __forceinline__ Pack<T, kFormat> load_pack(const Weights<T, kFormat>& w, int64_t row, int k) {
    Pack<T, kFormat> pack;
    const int64_t at = row * w.columns + k;
    union { Vec<uint8_t, 16> bytes; uint4 word; } u;
    if constexpr (kFormat == kDense) {
        union { Vec<T, 16 / sizeof(T)> values; uint4 word; } dense;
        dense.values = load_stream<16 / sizeof(T)>(static_cast<const T*>(w.values) + at);
        pack.bits = dense.word;
        pack.scale.v[0] = from_float<half>(0.0f);
        return pack;
    } else {
        u.bytes = load_stream<16>(static_cast<const uint8_t*>(w.values) + (kFormat == kQ8_0 ? at : at / 2));
        pack.bits = u.word;
        constexpr int kScales = kFormat == kQ4_1 ? 2 : 1;
        pack.scale = load_early<kScales>(w.scales + at / kBlockValues * kScales);
        return pack;
    }
}

template <typename T, int kFormat> __device__ __forceinline__ Pack<T, kFormat> zero_pack() {
    Pack<T, kFormat> pack;
    pack.bits = make_uint4(0, 0, 0, 0);
    pack.scale.v[0] = from_float<half>(0.0f);
    if constexpr (kFormat == kQ4_1) pack.scale.v[1] = from_float<half>(0.0f);
    return pack;
}

// 0 .. 255 as a float by two full-rate instructions; the conversion instruction runs at an eighth of that.
__device__ __forceinline__ float small_float(uint32_t x) { return __uint_as_float(0x4B000000u | x) - 8388608.0f; }

// Values N slice .. N slice + N - 1 of a pack.
template <int N, typename T, int kFormat> __device__ __forceinline__ void unpack(const Pack<T, kFormat>& pack, int slice, float (&out)[N]) {
    if constexpr (kFormat == kDense) {
        union { uint4 word; Vec<T, N> values; } u;
        u.word = pack.bits;
        to_floats(u.values, out);
    } else {
        const uint32_t words[4] = {pack.bits.x, pack.bits.y, pack.bits.z, pack.bits.w};
        const float d = to_float(pack.scale.v[0]);
#pragma unroll
        for (int i = 0; i < N; ++i) {
            const int at = N * slice + i, byte = at % 16;
            const uint32_t word = words[byte / 4] >> (8 * (byte % 4));
            if constexpr (kFormat == kQ8_0) out[i] = d * (small_float((word ^ 128u) & 255u) - 128.0f);
            if constexpr (kFormat == kQ4_0) out[i] = d * (small_float(word >> (at / 16 * 4) & 15u) - 8.0f);
            if constexpr (kFormat == kQ4_1) out[i] = fmaf(d, small_float(word >> (at / 16 * 4) & 15u), to_float(pack.scale.v[1]));
        }
    }
}

// The 8 values of a slice as four registers of two T.
template <typename T, int kFormat> __device__ __forceinline__ void unpack_pairs(const Pack<T, kFormat>& pack, int slice, uint32_t (&out)[4]) {
    if constexpr (kFormat == kDense) {
        out[0] = pack.bits.x, out[1] = pack.bits.y, out[2] = pack.bits.z, out[3] = pack.bits.w;
    } else {
        float values[8];
        unpack(pack, slice, values);
#pragma unroll
        for (int i = 0; i < 4; ++i) out[i] = pack2<T>(values[2 * i], values[2 * i + 1]);
    }
}

// ---- activations in shared memory ----

// Rows of at most kChunk columns of x, the first `columns` of a stage in use.
template <typename T> struct Stage {
    static constexpr int kUnit = 16 / sizeof(T);
    T* values;
    int stride;   // of a row, in T: whole groups of 8 units and half a group, so that neighbouring rows lie in different banks

    // The 16 bytes of columns k .. k + kUnit - 1 of row b; k counts from the stage's first column.
    __device__ __forceinline__ T* unit(int b, int k) const {
        const int u = k / kUnit;
        return values + b * stride + (u ^ (u >> 3 & 7)) * kUnit;
    }
};

// ---- the product ----

template <typename T, int kFormat, int kBatch, int kGroups, int kSplit> struct Gemv {
    static constexpr bool kTensor = sizeof(T) == 2 && kBatch >= 8;
    static constexpr int kVec = kPackValues<T, kFormat>;
    static constexpr int kUnit = Stage<T>::kUnit;
    static constexpr bool kFourBit = kFormat == kQ4_0 || kFormat == kQ4_1;
    static constexpr int kPlainRows = (kBatch == 16 && kFormat != kDense) || (kBatch == 8 && kFourBit) ? 2 : 4;   // 4 would spill
    static constexpr int kWarpRows = kTensor ? 16 : kPlainRows, kLaneRows = kTensor ? 2 : kPlainRows;
    static constexpr int kAcross = kTensor ? 4 : kWarp;    // lanes side by side along K
    static constexpr int kVecs = kTensor ? 2 : 1;          // vectors of a weight row a lane takes a step
    static constexpr int kThreads = kWarp * kGroups * kSplit, kTile = kGroups * kWarpRows;
    static constexpr int kStep = kSplit * kVecs * kAcross * kVec;   // columns of a block's step
    static constexpr int kChunk = kStageBytes / (kBatch * static_cast<int>(sizeof(T)));
    // For __launch_bounds__: as many blocks as leave a thread the registers it needs. ptxas' own choice spills where these do not.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 1000
    static constexpr int kMore = kFourBit ? 40 : 0;   // what 4-bit weights take beyond that: all of them from sm_100 on
#else
    static constexpr int kMore = kFormat == kQ4_1 ? 40 : 0;
#endif
    static constexpr int kPlainRegisters = kFormat != kDense && kBatch >= 2 ? 168 : kFormat == kDense && kBatch == 1 ? 80 : 128;
    static constexpr int kRegisters = kTensor ? 128 + kMore : kBatch >= 8 ? 255 : kPlainRegisters + kMore;
    // A quarter of a multiprocessor's registers serves a quarter of its warps. kRoomyBlocks leaves at least 128 registers, for kernels that
    // need more than the product does.
    static __host__ __device__ constexpr int fitting(int registers) { return 16384 / (registers * kWarp) * 4 / (kThreads / kWarp); }
    static __host__ __device__ constexpr int within(int blocks) { return blocks < 1 ? 1 : blocks < 16 ? blocks : 16; }
    static constexpr int kMinBlocks = within(fitting(kRegisters));
    static constexpr int kRoomyBlocks = within(fitting(kRegisters < 128 ? 128 : kRegisters));
    static constexpr int kSums = kTensor ? kBatch / 8 * 4 : kLaneRows * kBatch;
    static constexpr int kPartials = kTensor ? 1 : 2;   // sets of sums in shared memory: with two, a tile's end needs one barrier

    // A tile's finished sums, for any thread: of tile row i and activation row b, its bias included.
    struct Sums {
        const float* partial;   // (kSplit, kTile, kBatch)
        const float* shift;     // (kTile,)
        __device__ __forceinline__ float operator()(int i, int b) const {
            float sum = 0.0f;
#pragma unroll
            for (int s = 0; s < kSplit; ++s) sum += partial[(s * kTile + i) * kBatch + b];
            return sum + shift[i];
        }
    };

    Weights<T, kFormat> w;
    const T* __restrict__ bias;   // (rows of the weights,) or null
    int rows[kLaneRows];
    Pack<T, kFormat> ahead[kVecs][kLaneRows];
    float next_shift;   // of tile row threadIdx.x of the tile whose weights are on their way
    float sums[kSums];
    int column;        // this lane's first in a step
    int first, last;   // the block's weight rows
    bool active;       // the warp's rows of the tile whose weights are on their way lie in front of `last`

    // Tile row of this lane's weight row r.
    __device__ __forceinline__ int tile_row(int r) const {
        const int group = warp_id() / kSplit;
        return group * kWarpRows + (kTensor ? lane_id() / 4 + 8 * r : r);
    }

    // Starts the first loads of the block's share of `total` weight rows. `row_of(v)` is where row v lies in the weights; past the last
    // row it is any that exists.
    template <typename RowOf>
    __device__ __forceinline__ void begin(const Weights<T, kFormat>& weights, const T* shifts, int total, RowOf row_of) {
        w = weights;
        bias = shifts;
        column = (warp_id() % kSplit * kVecs * kAcross + lane_id() % kAcross) * kVec;
        const unsigned units = (total + kWarpRows - 1) / kWarpRows, block = blockIdx.x, blocks = gridDim.x;
        const unsigned share = units / blocks, over = units % blocks;
        first = static_cast<int>(block * share + min(block, over)) * kWarpRows;
        last = first + static_cast<int>(share + (block < over)) * kWarpRows;
#pragma unroll
        for (int i = 0; i < kSums; ++i) sums[i] = 0.0f;
        begin_tile(first, row_of);
        fetch(0, chunk_end(0));
    }

    // Multiplies. `stage(shared, from, to)` writes columns from .. to - 1 of all kBatch rows of x, zeros where there is no row; `shared`
    // is the launch's dynamic memory. Of every tile but the first, `prepare(tile)` comes before its weights are used, and of every one
    // `finish(tile, sums)` when its sums are there.
    template <typename RowOf, typename StageRows, typename Prepare, typename Finish>
    __device__ __forceinline__ void run(T* shared, RowOf row_of, StageRows stage, Prepare prepare, Finish finish) {
        const int columns = static_cast<int>(w.columns);
        const bool at_once = columns <= kChunk;
        constexpr int kGroupColumns = 8 * kUnit;
        const Stage<T> x = {shared, (min(columns, kChunk) + kGroupColumns - 1) / kGroupColumns * kGroupColumns + kGroupColumns / 2};
        SMEM(float, partial, kPartials * kSplit * kTile * kBatch);
        SMEM(float, shifts, 2 * kTile);
        bool odd = false;
        for (int tile = first; tile < last; tile += kTile, odd = !odd) {
            float* set = partial + (kPartials == 2 && odd ? kSplit * kTile * kBatch : 0);
            float* shift = shifts + (odd ? kTile : 0);
            if (tile != first) prepare(tile);
            if (threadIdx.x < kTile) shift[threadIdx.x] = next_shift;
            for (int from = 0; from < columns; from += kChunk) {
                const int to = chunk_end(from);
                if (tile == first || !at_once) {
                    if (tile != first || from) __syncthreads();
                    stage(x, from, to);
                    __syncthreads();
                }
                for (int k = from; k < to; k += kStep) {
                    Pack<T, kFormat> now[kVecs][kLaneRows];
#pragma unroll
                    for (int v = 0; v < kVecs; ++v)
#pragma unroll
                        for (int r = 0; r < kLaneRows; ++r) now[v][r] = ahead[v][r];
                    int next = k + kStep, next_to = to;
                    if (next >= to) {
                        next = to < columns ? to : 0;
                        next_to = chunk_end(next);
                        if (next == 0) begin_tile(tile + kTile, row_of);
                    }
                    fetch(next, next_to);
                    multiply(now, x, k - from, to - from);
                }
            }
            if (kPartials == 1 && tile != first) __syncthreads();
            add_splits(set);
            finish(tile, Sums{set, shift});
        }
    }

    // How many results of a tile a thread finishes, of kPer neighbouring rows each.
    template <int kPer = 1> static constexpr int kItems = (kTile / kPer * kBatch + kThreads - 1) / kThreads;

    // visit(j, i, row, b) for this thread's results j of a tile: tile rows i .. i + kPer - 1, from weight row `row` on, activation row b. Which
    // i and b they are is the same in every tile.
    template <int kPer, typename Visit> static __device__ __forceinline__ void for_each_item(int tile, int end, int rows, Visit visit) {
#pragma unroll
        for (int j = 0; j < kItems<kPer>; ++j) {
            const int item = j * kThreads + static_cast<int>(threadIdx.x), i = item % (kTile / kPer) * kPer, b = item / (kTile / kPer);
            if (tile + i < end && b < rows) visit(j, i, tile + i, b);
        }
    }

private:
    // Rows of a tile whose first loads come next.
    template <typename RowOf> __device__ __forceinline__ void begin_tile(int tile, RowOf row_of) {
        active = tile + warp_id() / kSplit * kWarpRows < last;
        if (tile < last) {
#pragma unroll
            for (int r = 0; r < kLaneRows; ++r) rows[r] = row_of(tile + tile_row(r));
        }
        const int row = tile + static_cast<int>(threadIdx.x);
        next_shift = bias && threadIdx.x < kTile && row < last ? to_float(load_early(bias + row_of(row))) : 0.0f;
    }

    __device__ __forceinline__ int chunk_end(int first) const { return min(static_cast<int>(w.columns), first + kChunk); }

    __device__ __forceinline__ void fetch(int k, int end) {
#pragma unroll
        for (int v = 0; v < kVecs; ++v) {
            const int at = k + column + v * kAcross * kVec;
#pragma unroll
            for (int r = 0; r < kLaneRows; ++r) ahead[v][r] = active && at < end ? load_pack(w, rows[r], at) : zero_pack<T, kFormat>();
        }
    }

    // One step; k and end count from the stage's first column.
    __device__ __forceinline__ void multiply(const Pack<T, kFormat> (&now)[kVecs][kLaneRows], const Stage<T>& x, int k, int end) {
#pragma unroll
        for (int v = 0; v < kVecs; ++v) {
            const int at = k + column + v * kAcross * kVec;
            if constexpr (kTensor) {
#pragma unroll
                for (int s = 0; s < kVec / 8; ++s) multiply_tensor(now[v], x, s, at + 8 * s, at < end);
            } else if (at < end) {
#pragma unroll
                for (int s = 0; s < kVec / kUnit; ++s) multiply_plain(now[v], x, s, at + kUnit * s);
            }
        }
    }

    __device__ __forceinline__ void multiply_plain(const Pack<T, kFormat> (&now)[kLaneRows], const Stage<T>& x, int s, int k) {
        float weights[kLaneRows][kUnit];
#pragma unroll
        for (int r = 0; r < kLaneRows; ++r) unpack(now[r], s, weights[r]);
#pragma unroll
        for (int b = 0; b < kBatch; ++b) {
            float values[kUnit];
            load_floats<kUnit>(x.unit(b, k), values);
#pragma unroll
            for (int r = 0; r < kLaneRows; ++r)
#pragma unroll
                for (int i = 0; i < kUnit; ++i) sums[r * kBatch + b] = fmaf(weights[r][i], values[i], sums[r * kBatch + b]);
        }
    }

    __device__ __forceinline__ void multiply_tensor(const Pack<T, kFormat> (&now)[kLaneRows], const Stage<T>& x, int s, int k, bool valid) {
        if constexpr (kTensor) {
            uint32_t low[4], high[4];
            unpack_pairs(now[0], s, low);
            unpack_pairs(now[1], s, high);
            const uint32_t a[2][4] = {{low[0], high[0], low[1], high[1]}, {low[2], high[2], low[3], high[3]}};
#pragma unroll
            for (int n = 0; n < kBatch / 8; ++n) {
                union { Vec<T, 8> values; uint32_t words[4]; } u = {};
                if (valid) u.values = load<8>(x.unit(8 * n + lane_id() / 4, k));
                float(&d)[4] = reinterpret_cast<float(&)[4]>(sums[4 * n]);
                const uint32_t b[2][2] = {{u.words[0], u.words[1]}, {u.words[2], u.words[3]}};
                mma_16816<T>(d, a[0], b[0], d);
                mma_16816<T>(d, a[1], b[1], d);
            }
        }
    }

    // Every warp's sums to shared memory, (kSplit, kTile, kBatch), and back to zero; a barrier behind it.
    __device__ __forceinline__ void add_splits(float* set) {
        float* mine = set + warp_id() % kSplit * kTile * kBatch;
        if constexpr (kTensor) {
#pragma unroll
            for (int i = 0; i < kSums; ++i)   // d[0], d[1] = D[g][2t..], d[2], d[3] = D[g + 8][2t..] of 8 rows of x
                mine[tile_row(i % 4 / 2) * kBatch + i / 4 * 8 + lane_id() % 4 * 2 + i % 2] = sums[i];
        } else {
#pragma unroll
            for (int i = 0; i < kSums; ++i) {
                const float sum = warp_sum(sums[i]);
                if (lane_id() == 0) mine[tile_row(i / kBatch) * kBatch + i % kBatch] = sum;
            }
        }
#pragma unroll
        for (int i = 0; i < kSums; ++i) sums[i] = 0.0f;
        __syncthreads();
    }
};

// Stages rows of x (rows, columns) T as they are.
template <typename T, int kBatch, int kThreads>
__device__ __forceinline__ void stage_rows(const Stage<T>& stage, const T* x, int rows, int64_t columns, int first, int end) {
    constexpr int kUnit = Stage<T>::kUnit;
    const int units = (end - first) / kUnit;
    for (int item = threadIdx.x; item < kBatch * units; item += kThreads) {
        const int b = item / units, k = item % units * kUnit;
        Vec<T, kUnit> values;
#pragma unroll
        for (int i = 0; i < kUnit; ++i) values.v[i] = from_float<T>(0.0f);
        if (b < rows) values = load<kUnit>(x + b * columns + first + k);
        store(stage.unit(b, k), values);
    }
}
