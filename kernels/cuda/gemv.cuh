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

#include "packs.cuh"

constexpr int kStageBytes = 32 * 1024;

// ---- activations in shared memory ----

// Rows of at most kChunk columns of x, the first `columns` of a stage in use.
template <typename T> struct Stage {
    static constexpr int kUnit = 16 / sizeof(T);
    T* values;
    int stride;   // of a row, in T: whole groups of 8 units and half a group, so that neighbouring rows lie in different banks

    // The 16 bytes of columns k .. k + kUnit - 1 of row b; k counts from the stage's first column.
    __device__ __forceinline__ T* unit(int b, int k) const {
        const unsigned u = static_cast<unsigned>(k) / kUnit;
        return values + b * stride + (u ^ (u >> 3 & 7)) * kUnit;
    }
    // 16 bytes of zeros behind row 0, for lanes without a row or a column.
    __device__ __forceinline__ T* zeros() const { return values + stride - kUnit; }
};

// ---- the product ----

template <typename T, int kFormat, int kBatch, int kGroups, int kSplit> struct Gemv {
    static constexpr bool kTensor = sizeof(T) == 2 && (kBatch >= 8 || kFormat != kDense);
    static constexpr bool kApart = kTensor && kFormat != kDense && kBatch <= 2;   // packs.cuh
    static constexpr int kVec = kPackValues<T, kFormat>;
    static constexpr int kUnit = Stage<T>::kUnit;
    static constexpr int kPlainRows = kFormat != kDense && kBatch >= 8 ? 2 : 4;   // 4 would spill
    static constexpr int kWarpRows = kTensor ? 16 : kPlainRows, kLaneRows = kTensor ? 2 : kPlainRows;
    static constexpr int kAcross = kTensor ? 4 : kWarp;    // lanes side by side along K
    static constexpr int kVecs = kTensor ? 2 : 1;          // vectors of a weight row a lane takes a step
    static constexpr int kThreads = kWarp * kGroups * kSplit, kTile = kGroups * kWarpRows;
    static constexpr int kStep = kSplit * kVecs * kAcross * kVec;   // columns of a block's step
    static constexpr int kChunk = kStageBytes / (kBatch * static_cast<int>(sizeof(T)));
    // For __launch_bounds__: as many blocks as leave a thread the registers it needs. ptxas' own choice spills where these do not.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 800
    static constexpr int kLeast = 96;   // Turing's code needs more than 80
#else
    static constexpr int kLeast = 80;
#endif
    static constexpr int kPlainRegisters = kFormat != kDense && kBatch >= 2 ? 168 : kFormat == kDense && kBatch == 1 ? kLeast : 128;
    static constexpr int kRegisters = kApart && kFormat == kQ4_1 ? 168 : kTensor ? 128 : kBatch >= 8 ? 255 : kPlainRegisters;
    // A quarter of a multiprocessor's registers serves a quarter of its warps. kRoomyBlocks leaves at least 128 registers, for kernels that
    // need more than the product does.
    static __host__ __device__ constexpr int fitting(int registers) { return 16384 / (registers * kWarp) * 4 / (kThreads / kWarp); }
    static __host__ __device__ constexpr int within(int blocks) { return blocks < 1 ? 1 : blocks < 16 ? blocks : 16; }
    static constexpr int kMinBlocks = within(fitting(kRegisters));
    static constexpr int kRoomyBlocks = within(fitting(kRegisters < 128 ? 128 : kRegisters));
    // With kApart the 8 columns of a tensor-core tile are kBlocks blocks of 8 / kBlocks rows of x: column c is block c % kBlocks of row
    // c / kBlocks, and a lane gives its values to the column of its own block, zeros to the others.
    static constexpr int kBlocks = kApart ? kPackBlocks<kFormat> : 1;
    static constexpr int kColumnTiles = (kBatch * kBlocks + 7) / 8;
    static constexpr int kSums = kApart ? 2 * kColumnTiles : kTensor ? kColumnTiles * 4 : kLaneRows * kBatch;
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
    Pack<T, kFormat, kApart> ahead[kVecs][kLaneRows];
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
        if (kTensor && threadIdx.x < kUnit) x.zeros()[threadIdx.x] = from_float<T>(0.0f);
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
                    Pack<T, kFormat, kApart> now[kVecs][kLaneRows];
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
            for (int r = 0; r < kLaneRows; ++r) ahead[v][r] = load_pack<kApart>(w, rows[r], at, active ? end : 0);
        }
    }

    // One step; k and end count from the stage's first column.
    __device__ __forceinline__ void multiply(const Pack<T, kFormat, kApart> (&now)[kVecs][kLaneRows], const Stage<T>& x, int k, int end) {
#pragma unroll
        for (int v = 0; v < kVecs; ++v) {
            const int at = k + column + v * kAcross * kVec;
            if constexpr (kApart) {
                multiply_blocks(now[v], x, at, at < end);
            } else if constexpr (kTensor) {
#pragma unroll
                for (int s = 0; s < kVec / 8; ++s) multiply_tensor(now[v], x, s, at + 8 * s, at < end);
            } else if (at < end) {
#pragma unroll
                for (int s = 0; s < kVec / kUnit; ++s) multiply_plain(now[v], x, s, at + kUnit * s);
            }
        }
    }

    __device__ __forceinline__ void multiply_plain(const Pack<T, kFormat, kApart> (&now)[kLaneRows], const Stage<T>& x, int s, int k) {
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

    // 16 rows of weights as A of two tensor-core multiplies: a slice of 8 values of each lane.
    static __device__ __forceinline__ void weight_fragments(const Pack<T, kFormat, kApart> (&now)[kLaneRows], int s, uint32_t (&a)[2][4]) {
        uint32_t low[4], high[4];
        slice_pairs(now[0], s, low);
        slice_pairs(now[1], s, high);
#pragma unroll
        for (int i = 0; i < 2; ++i) a[i][0] = low[2 * i], a[i][1] = high[2 * i], a[i][2] = low[2 * i + 1], a[i][3] = high[2 * i + 1];
    }

    // d += A times the 8 values from column k of row b of x, zeros where not `valid`.
    static __device__ __forceinline__ void multiply_fragments(const uint32_t (&a)[2][4], const Stage<T>& x, int b, int k, bool valid, float (&d)[4]) {
        union { Vec<T, 8> values; uint32_t words[4]; } u;
        u.values = load<8>(valid ? x.unit(b, k) : x.zeros());
        const uint32_t columns[2][2] = {{u.words[0], u.words[1]}, {u.words[2], u.words[3]}};
        mma_16816<T>(d, a[0], columns[0], d);
        mma_16816<T>(d, a[1], columns[1], d);
    }

    __device__ __forceinline__ void multiply_tensor(const Pack<T, kFormat, kApart> (&now)[kLaneRows], const Stage<T>& x, int s, int k, bool valid) {
        if constexpr (kTensor) {
            uint32_t a[2][4];
            weight_fragments(now, s, a);
#pragma unroll
            for (int n = 0; n < kColumnTiles; ++n) {
                const int b = 8 * n + lane_id() / 4;
                multiply_fragments(a, x, b, k, valid && b < kBatch, reinterpret_cast<float(&)[4]>(sums[4 * n]));
            }
        }
    }

    // A vector of each of the lane's rows: the integers' sums a block, then the scales. Q4_1's minimum counts the sum of x in its block.
    __device__ __forceinline__ void multiply_blocks(const Pack<T, kFormat, kApart> (&now)[kLaneRows], const Stage<T>& x, int k, bool valid) {
        if constexpr (kApart) {
            const int group = lane_id() / 4, own_block = lane_id() % 4 / (4 / kBlocks);
            const uint32_t one = pack2<T>(1.0f, 1.0f), ones[2][4] = {{one, one, one, one}, {one, one, one, one}};
            float products[kColumnTiles][4] = {}, totals[kFormat == kQ4_1 ? kColumnTiles : 1][4] = {};
#pragma unroll
            for (int s = 0; s < kVec / 8; ++s) {
                uint32_t a[2][4];
                weight_fragments(now, s, a);
#pragma unroll
                for (int n = 0; n < kColumnTiles; ++n) {
                    const int column = 8 * n + group, b = column / kBlocks;
                    const bool mine = valid && column % kBlocks == own_block && b < kBatch;
                    multiply_fragments(a, x, b, k + 8 * s, mine, products[n]);
                    if constexpr (kFormat == kQ4_1) multiply_fragments(ones, x, b, k + 8 * s, mine, totals[n]);
                }
            }
#pragma unroll
            for (int i = 0; i < kSums; ++i) {   // row i % 2 of the lane, the blocks of columns 2t and 2t + 1
                const int n = i / 2, r = i % 2;
#pragma unroll
                for (int c = 0; c < 2; ++c) {
                    sums[i] = fmaf(to_float(now[r].scale[c].v[0]), products[n][2 * r + c], sums[i]);
                    if constexpr (kFormat == kQ4_1) sums[i] = fmaf(to_float(now[r].scale[c].v[1]), totals[n][2 * r + c], sums[i]);
                }
            }
        }
    }

    // Every warp's sums to shared memory, (kSplit, kTile, kBatch), and back to zero; a barrier behind it.
    __device__ __forceinline__ void add_splits(float* set) {
        float* mine = set + warp_id() % kSplit * kTile * kBatch;
        if constexpr (kApart) {
#pragma unroll
            for (int i = 0; i < kSums; ++i) {
                const int b = (i / 2 * 8 + lane_id() % 4 * 2) / kBlocks;
                const float sum = warp_sum<kBlocks / 2>(sums[i]);   // four blocks are in two neighbouring lanes
                if (b < kBatch && lane_id() % (kBlocks / 2) == 0) mine[tile_row(i % 2) * kBatch + b] = sum;
            }
        } else if constexpr (kTensor) {
#pragma unroll
            for (int i = 0; i < kSums; ++i) {   // d[0], d[1] = D[g][2t..], d[2], d[3] = D[g + 8][2t..] of 8 rows of x
                const int b = i / 4 * 8 + lane_id() % 4 * 2 + i % 2;
                if (b < kBatch) mine[tile_row(i % 4 / 2) * kBatch + b] = sums[i];
            }
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
        if (b < rows) values = load_fresh<kUnit>(x + b * columns + first + k);
        store(stage.unit(b, k), values);
    }
}
