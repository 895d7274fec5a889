// Kernels with one mistake each; the simulator must name the line marked FAULT (kernel name). All take (out, in, n).
#include "common.cuh"

#define KERNEL(name) __global__ void name(float* __restrict__ out, const float* __restrict__ in, int32_t n)

__device__ __forceinline__ int thread_id() { return threadIdx.x; }

// ---- barriers ----

KERNEL(missing_barrier) {
    SMEM(float, tile, 64);
    tile[thread_id()] = in[thread_id()];
    out[thread_id()] = tile[63 - thread_id()];   // FAULT missing_barrier
    (void)n;
}

KERNEL(divergent_barrier) {
    if (thread_id() < 32) {
        __syncthreads();   // FAULT divergent_barrier
    } else {
        __syncthreads();   // FAULT divergent_barrier other
    }
    out[0] = in[0] + n;
}

KERNEL(early_return) {
    if (thread_id() >= n) return;
    __syncthreads();   // FAULT early_return
    out[thread_id()] = in[thread_id()];
}

KERNEL(barrier_against_shuffle) {
    float x = in[thread_id()];
    if (thread_id() % 32 < 16) __syncthreads();   // FAULT barrier_against_shuffle
    x = warp_sum(x);
    out[thread_id()] = x + n;
}

// ---- memory ----

KERNEL(global_read_past_end) { out[thread_id()] = in[thread_id() + 1] + n; }   // FAULT global_read_past_end
KERNEL(global_write_past_end) { out[thread_id() + 1] = in[thread_id()] + n; }   // FAULT global_write_past_end
KERNEL(global_read_before_start) { out[thread_id()] = in[thread_id() - 1] + n; }   // FAULT global_read_before_start

KERNEL(shared_past_end) {
    SMEM(float, first, 32);
    SMEM(float, second, 32);
    first[thread_id()] = second[thread_id()] = 0.0f;
    __syncthreads();
    first[thread_id() + n] = in[thread_id()];   // FAULT shared_past_end
    __syncthreads();
    out[thread_id()] = first[thread_id() % 32] + second[thread_id() % 32];
}

KERNEL(dynamic_shared_past_end) {
    DYN_SMEM(float, tile);
    tile[thread_id() + n] = in[thread_id()];   // FAULT dynamic_shared_past_end
    __syncthreads();
    out[thread_id()] = tile[thread_id() + n];
}

KERNEL(unwritten_shared) {
    SMEM(float, tile, 64);
    if (thread_id() < 63) tile[thread_id()] = in[thread_id()];
    __syncthreads();
    out[thread_id()] = tile[thread_id()] + n;
}

KERNEL(misaligned_vector) {
    float x[4];
    load_floats(in + 4 * thread_id() + n, x);
    out[thread_id()] = x[0];
}

KERNEL(wild_pointer) {
    const float* nowhere = reinterpret_cast<const float*>(static_cast<uint64_t>(n));
    out[thread_id()] = *nowhere + in[0];
}

KERNEL(too_much_static_shared) {
    SMEM(float, tile, 48 * 1024 / 4 + 1);   // FAULT too_much_static_shared
    tile[thread_id()] = in[thread_id()];
    out[thread_id()] = tile[thread_id()] + n;
}

// ---- asynchronous copies ----

KERNEL(missing_copy_wait) {
    SMEM(float, tile, 128);
    cp_async16(tile + 4 * thread_id(), in + 4 * thread_id());
    cp_async_commit();
    __syncthreads();
    out[thread_id()] = tile[thread_id()] + n;
}

KERNEL(wait_for_the_wrong_group) {
    SMEM(float, tile, 256);
    for (int i = 0; i < 2; ++i) {
        cp_async16(tile + 128 * i + 4 * thread_id(), in + 128 * i + 4 * thread_id());
        cp_async_commit();
    }
    cp_async_wait<1>();
    __syncthreads();
    out[thread_id()] = tile[thread_id()];
    out[thread_id() + 32] = tile[thread_id() + 128] + n;
}

KERNEL(copy_into_a_buffer_in_use) {
    SMEM(float, tile, 128);
    cp_async16(tile + 4 * thread_id(), in + 4 * thread_id());
    cp_async_commit();
    cp_async_wait<0>();
    __syncthreads();
    const float x = tile[(thread_id() * 4 + 37) % 128];   // FAULT copy_into_a_buffer_in_use
    cp_async16(tile + 4 * thread_id(), in + 128 + 4 * thread_id());
    cp_async_commit();
    cp_async_wait<0>();
    __syncthreads();
    out[thread_id()] = x + tile[thread_id()] + n;
}

// ---- warps ----

KERNEL(shuffle_outside_mask) {
    float x = in[thread_id()];
    if (thread_id() < 16) x += __shfl_xor_sync(0xFFFFu, x, 16);   // FAULT shuffle_outside_mask
    out[thread_id()] = x + n;
}

KERNEL(shuffle_with_returned_lanes) {
    if (thread_id() >= 24) return;
    out[thread_id()] = __shfl_xor_sync(kFullMask, in[thread_id()], 1) + n;   // FAULT shuffle_with_returned_lanes
}

KERNEL(divergent_shuffle) {
    float x = in[thread_id()];
    if (thread_id() % 2)
        x += __shfl_xor_sync(kFullMask, x, 2);   // FAULT divergent_shuffle
    else
        x += __shfl_xor_sync(kFullMask, x, 4);   // FAULT divergent_shuffle other
    out[thread_id()] = x + n;
}

KERNEL(masks_that_differ) {
    float x = in[thread_id()];
    if (thread_id() < 16)
        x += __shfl_xor_sync(0x0001FFFFu, x, 1);   // FAULT masks_that_differ
    else
        x += __shfl_xor_sync(0xFFFF8000u, x, 1);   // FAULT masks_that_differ other
    out[thread_id()] = x + n;
}

KERNEL(missing_warp_barrier) {
    SMEM(float, tile, 32);
    tile[thread_id()] = in[thread_id()];
    out[thread_id()] = tile[31 - thread_id()] + n;   // FAULT missing_warp_barrier
}

// ---- between blocks ----

KERNEL(blocks_write_one_place) {
    if (thread_id() == 0) out[0] = in[blockIdx.x] + n;   // FAULT blocks_write_one_place
}

KERNEL(ticket_without_fence) {   // what is_last_block does, less its fences
    uint32_t* counter = reinterpret_cast<uint32_t*>(out + 8);
    SMEM(uint32_t, ticket, 1);
    if (thread_id() == 0) {
        out[blockIdx.x] = in[blockIdx.x];
        ticket[0] = atomicAdd(counter, 1u);
    }
    __syncthreads();
    if (ticket[0] != gridDim.x - 1 || thread_id() != 0) return;
    float sum = 0.0f;
    for (int i = 0; i < static_cast<int>(gridDim.x); ++i) sum += out[i];   // FAULT ticket_without_fence
    out[n] = sum;
}

KERNEL(grid_barrier_without_residency) {
    grid_barrier(reinterpret_cast<uint32_t*>(out), gridDim.x);
    out[1] = in[0] + n;
}

KERNEL(spin_without_end) {
    uint32_t* flag = reinterpret_cast<uint32_t*>(out);
    SPIN_UNTIL(ld_acquire(flag) == 1u);   // FAULT spin_without_end
    out[1] = in[0] + n;
}

// ---- order ----

KERNEL(last_writer_wins) { out[0] = static_cast<float>(thread_id() + n) + in[0]; }
