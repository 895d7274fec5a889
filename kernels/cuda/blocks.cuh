// What blocks and launches say to each other. Part of common.cuh.
#pragma once

// ---- between blocks ----

__device__ __forceinline__ uint32_t ld_acquire(const uint32_t* address) {
#if defined(__CUDACC__)
    uint32_t value;
    asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(value) : "l"(address) : "memory");
    return value;
#else
    return __atomic_load_n(address, __ATOMIC_ACQUIRE);
#endif
}

__device__ __forceinline__ void st_release(uint32_t* address, uint32_t value) {
#if defined(__CUDACC__)
    asm volatile("st.release.gpu.global.u32 [%0], %1;" ::"l"(address), "r"(value) : "memory");
#else
    __atomic_store_n(address, value, __ATOMIC_RELEASE);
#endif
}

// Stores two values where the host reads while the kernel runs (mapped pinned memory, 8-byte aligned): it sees both or neither.
__device__ __forceinline__ void st_system_pair(int32_t* address, int32_t first, int32_t second) {
    const uint64_t pair = static_cast<uint64_t>(static_cast<uint32_t>(second)) << 32 | static_cast<uint32_t>(first);
#if defined(__CUDACC__)
    asm volatile("st.relaxed.sys.global.u64 [%0], %1;" ::"l"(address), "l"(pair) : "memory");
#else
    __atomic_store_n(reinterpret_cast<uint64_t*>(address), pair, __ATOMIC_RELAXED);
#endif
}

// Adds `value` and returns what was there before: ordered after everything this thread saw or wrote, before everything it does next.
__device__ __forceinline__ uint32_t add_acq_rel(uint32_t* address, uint32_t value) {
#if defined(__CUDACC__)
    uint32_t before;
    asm volatile("atom.add.acq_rel.gpu.global.u32 %0, [%1], %2;" : "=r"(before) : "l"(address), "r"(value) : "memory");
    return before;
#else
    return __atomic_fetch_add(address, value, __ATOMIC_ACQ_REL);
#endif
}

// True, in every thread, for the block whose share completes `whole`: what the others stored before is then visible to it. `counter`
// starts at 0 and is 0 again afterwards. source: CUDA samples, threadFenceReduction; the order by acquire and release alone.
__device__ __forceinline__ bool is_last_share(uint32_t* counter, uint32_t share, uint32_t whole) {
    SMEM(uint32_t, ticket, 1);
    __syncthreads();
    if (threadIdx.x == 0) {
        ticket[0] = add_acq_rel(counter, share) + share;
        if (ticket[0] == whole) *counter = 0;
    }
    __syncthreads();
    return ticket[0] == whole;
}

// The same for the last of `num_blocks` blocks to call.
__device__ __forceinline__ bool is_last_block(uint32_t* counter, uint32_t num_blocks) { return is_last_share(counter, 1, num_blocks); }

// All blocks of a cooperative launch meet. `counter` starts at 0 and only grows, so it serves every barrier of every launch of as many
// blocks.
__device__ __forceinline__ void grid_barrier(uint32_t* counter, uint32_t num_blocks) {
    REQUIRE_COOPERATIVE();
    __syncthreads();
    if (threadIdx.x == 0) {
        __threadfence();
        const uint32_t target = (atomicAdd(counter, 1u) / num_blocks + 1) * num_blocks;
        SPIN_UNTIL(static_cast<int32_t>(ld_acquire(counter) - target) >= 0);
        __threadfence();
    }
    __syncthreads();
}

// ---- launches that overlap (programmatic dependent launch, sm_90 and later; nothing elsewhere) ----

// Whether a projection's first weights are loaded before it waits; a launcher defines NO_PREFETCH to measure what that is worth.
#if defined(NO_PREFETCH)
constexpr bool kPrefetch = false;
#else
constexpr bool kPrefetch = true;
#endif

// Before the first read of what the preceding kernel wrote.
__device__ __forceinline__ void pdl_wait() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}
// Lets the following kernel start; it still waits, in its pdl_wait, for this one's end.
__device__ __forceinline__ void pdl_trigger() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}
