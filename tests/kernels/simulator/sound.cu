// Kernels that are right, for the wrappers of common.cuh: each compares with NumPy, in every mode.
#include "common.cuh"

// out: (13, 32) one row a warp operation.
__global__ void warp_operations(const float* __restrict__ in, float* __restrict__ out) {
    const int lane = lane_id();
    const float x = in[lane];
    out[lane] = __shfl_sync(kFullMask, x, 5);
    out[32 + lane] = __shfl_sync(kFullMask, x, 3, 8);
    out[64 + lane] = __shfl_xor_sync(kFullMask, x, 9);
    out[96 + lane] = __shfl_up_sync(kFullMask, x, 3);
    out[128 + lane] = __shfl_up_sync(kFullMask, x, 2, 8);
    out[160 + lane] = __shfl_down_sync(kFullMask, x, 3);
    out[192 + lane] = __shfl_down_sync(kFullMask, x, 2, 8);
    out[224 + lane] = static_cast<float>(__popc(__ballot_sync(kFullMask, x > 0.0f)));
    out[256 + lane] = __any_sync(kFullMask, lane == 7) ? 1.0f : 0.0f;
    out[288 + lane] = __all_sync(kFullMask, lane != 7) ? 1.0f : 0.0f;
    out[320 + lane] = warp_sum(x);
    out[352 + lane] = warp_max<8>(x);
    float y = x;
    if (lane < 16) y += __shfl_xor_sync(0x0000FFFFu, x, 8);
    else y += __shfl_xor_sync(0xFFFF0000u, x, 4);
    __syncwarp();
    out[384 + lane] = y;
}

template <int kThreads>
__global__ __launch_bounds__(kThreads) void block_operations(const float* __restrict__ in, float* __restrict__ out) {
    const int thread = threadIdx.x;
    const float sum = block_sum<kThreads>(in[thread]), count = block_sum<kThreads>(1.0f);   // one right after the other
    const float largest = block_max<kThreads>(in[thread]), least = -block_max<kThreads>(-in[thread]);
    out[thread] = sum;
    out[kThreads + thread] = count;
    out[2 * kThreads + thread] = largest;
    out[3 * kThreads + thread] = least;
    out[4 * kThreads + thread] = static_cast<float>(__syncthreads_count(in[thread] > 0.0f));
}

// d (16, 8) = a (16, 16) b (8, 16)^T + c (16, 8), operands through shared memory by ldmatrix; b again by the transposing form.
template <typename T>
__global__ void tile_product(const T* __restrict__ a, const T* __restrict__ b, const T* __restrict__ b_transposed,
                             const float* __restrict__ c, float* __restrict__ d, float* __restrict__ d_transposed) {
    SMEM(T, tile_a, 256);
    SMEM(T, tile_b, 128);
    SMEM(T, tile_bt, 128);
    const int lane = lane_id();
    cp_async16(tile_a + 8 * lane, a + 8 * lane);
    cp_async_commit();
    if (lane < 16) {
        cp_async16(tile_b + 8 * lane, b + 8 * lane);
        cp_async16_or_zero(tile_bt + 8 * lane, b_transposed + 8 * lane, true);
    }
    cp_async_commit();
    cp_async_wait<0>();
    __syncthreads();
    uint32_t fragment_a[4], fragment_b[2], fragment_bt[2];
    ldmatrix_x4(fragment_a, tile_a + (lane % 16) * 16 + lane / 16 * 8);
    ldmatrix_x2(fragment_b, tile_b + (lane % 8) * 16 + lane % 16 / 8 * 8);
    ldmatrix_x2_trans(fragment_bt, tile_bt + (lane % 16) * 8);
    const int row = lane / 4, column = lane % 4 * 2;
    const float sum[4] = {c[row * 8 + column], c[row * 8 + column + 1], c[(row + 8) * 8 + column], c[(row + 8) * 8 + column + 1]};
    float e[4];
    mma_16816<T>(e, fragment_a, fragment_b, sum);
    for (int i = 0; i < 4; ++i) d[(row + i / 2 * 8) * 8 + column + i % 2] = e[i];
    mma_16816<T>(e, fragment_a, fragment_bt, sum);
    for (int i = 0; i < 4; ++i) d_transposed[(row + i / 2 * 8) * 8 + column + i % 2] = e[i];
}

__global__ void zero_fill(const float* __restrict__ in, float* __restrict__ out, int32_t valid) {
    SMEM(float, tile, 128);
    const int lane = lane_id();
    cp_async16_or_zero(tile + 4 * lane, in + 4 * lane, lane < valid);   // the address of an invalid copy may lie outside
    cp_async_commit();
    cp_async_wait<0>();
    __syncthreads();
    for (int i = 0; i < 4; ++i) out[32 * i + lane] = tile[32 * i + lane];
}

// sums[i] = sum of in over blocks, by the last block; counter is 0 before and after.
__global__ void last_block_sums(const float* __restrict__ in, float* __restrict__ partial, uint32_t* __restrict__ counter,
                                float* __restrict__ sums) {
    const int thread = threadIdx.x;
    partial[blockIdx.x * 32 + thread] = 2.0f * in[blockIdx.x * 32 + thread];
    if (!is_last_block(counter, gridDim.x)) return;
    float sum = 0.0f;
    for (int b = 0; b < static_cast<int>(gridDim.x); ++b) sum += partial[b * 32 + thread];
    sums[thread] = sum;
}

// Each block passes its value to the next, `rounds` times round.
__global__ void grid_rounds(const float* __restrict__ in, float* __restrict__ a, float* __restrict__ b,
                            uint32_t* __restrict__ counter, int32_t rounds) {
    const int thread = threadIdx.x, blocks = gridDim.x, block = blockIdx.x;
    a[block * 32 + thread] = in[block * 32 + thread];
    for (int r = 0; r < rounds; ++r) {
        grid_barrier(counter, gridDim.x);
        const float* source = r % 2 ? b : a;
        float* target = r % 2 ? a : b;
        target[block * 32 + thread] = source[(block + 1) % blocks * 32 + thread] + 1.0f;
    }
}

// Block 1 waits for block 0's flag.
__global__ void flag_between_blocks(float* __restrict__ data, uint32_t* __restrict__ flag, float* __restrict__ out) {
    REQUIRE_COOPERATIVE();
    if (blockIdx.x == 0) {
        data[threadIdx.x] = static_cast<float>(threadIdx.x);
        __syncthreads();
        if (threadIdx.x == 0) st_release(flag, 1u);
        return;
    }
    if (threadIdx.x == 0) SPIN_UNTIL(ld_acquire(flag) == 1u);
    __syncthreads();
    out[threadIdx.x] = data[threadIdx.x];
}

__global__ void atomic_sums(float* __restrict__ sum, int32_t* __restrict__ largest, uint32_t* __restrict__ count) {
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    atomicAdd(sum, static_cast<float>(i));
    atomicMax(largest, i);
    atomicAdd(count, 1u);
}

// The order in which threads come by.
__global__ void arrival_order(uint32_t* __restrict__ counter, uint32_t* __restrict__ order) {
    order[blockIdx.x * blockDim.x + threadIdx.x] = atomicAdd(counter, 1u);
}

template <typename T>
__global__ void convert(const float* __restrict__ in, T* __restrict__ narrow, float* __restrict__ wide, int32_t n) {
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) return;
    narrow[i] = from_float<T>(in[i]);
    wide[i] = to_float(narrow[i]);
}

__global__ void random_words(const uint32_t* __restrict__ counters, const uint32_t* __restrict__ keys, uint32_t* __restrict__ out) {
    const int i = threadIdx.x;
    const uint32_t* c = counters + 4 * i;
    const uint4 r = philox4x32_10(make_uint4(c[0], c[1], c[2], c[3]), make_uint2(keys[2 * i], keys[2 * i + 1]));
    out[4 * i] = r.x;
    out[4 * i + 1] = r.y;
    out[4 * i + 2] = r.z;
    out[4 * i + 3] = r.w;
}

template <typename T>
__global__ void packed_pairs(const float* __restrict__ in, uint32_t* __restrict__ out) {
    const int i = threadIdx.x;
    out[i] = pack2<T>(in[2 * i], in[2 * i + 1]);
}

// One block of 32 values a thread, by the 16-byte helpers and by load_weights in steps of 4 and 8.
template <typename T, int kFormat>
__global__ void dequantised(const void* __restrict__ values, const half* __restrict__ scales, float* __restrict__ whole,
                            float* __restrict__ fours, float* __restrict__ eights, int32_t columns) {
    const int blocks = columns / kBlockValues, row = blockIdx.x, block = threadIdx.x;
    if (block >= blocks) return;
    const int64_t at = static_cast<int64_t>(row) * blocks + block;
    const Weights<T, kFormat> w = {values, scales, columns};
    float d, m;
    load_scale<kFormat>(scales, at, d, m);
    const uint4* words = static_cast<const uint4*>(values);
    if constexpr (kFormat == kQ8_0) {
        float x[16];
        for (int h = 0; h < 2; ++h) {
            dequantise_q8(words[2 * at + h], d, x);
            store_floats(whole + 32 * at + 16 * h, x);
        }
    } else {
        float x[32];
        dequantise_q4(words[at], d, m, x);
        store_floats(whole + 32 * at, x);
    }
    for (int k = 0; k < 32; k += 4) {
        float x[4];
        load_weights(w, row, block * 32 + k, x);
        store_floats(fours + 32 * at + k, x);
    }
    for (int k = 0; k < 32; k += 8) {
        float x[8];
        load_weights(w, row, block * 32 + k, x);
        store_floats(eights + 32 * at + k, x);
    }
}
