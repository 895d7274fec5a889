// Lets g++ compile an unchanged .cu file: CUDA's keywords, built-in variables and functions on top of the simulator's runtime.
// Only common.cuh includes this. What is not here is not used by any kernel.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "state.h"
#include "types.h"

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __shared__ static_assert(false, "declare shared memory with SMEM or DYN_SMEM")
#define __align__(n) alignas(n)

#define SIM_SITE (sim::Site{__FILE__, __LINE__})

// A reference to an array in the block's own arena, so that sizeof, bounds and addresses are those of the declaration.
#define SIM_SHARED(T, name, count)                                                                        \
    static const int name##_site = sim::sim_new_site();                                                   \
    auto& name = *reinterpret_cast<T(*)[count]>(                                                          \
        sim::sim_shared_array(name##_site, SIM_SITE, #name, sizeof(T) * (count), alignof(T)))
#define SIM_DYNAMIC_SHARED(T, name) T* name = static_cast<T*>(sim::sim_dynamic_shared(SIM_SITE, alignof(T)))

// ---- barriers, votes and shuffles ----

#define __syncthreads() static_cast<void>(sim::sim_sync_threads(SIM_SITE, 0))
#define __syncthreads_count(predicate) sim::sim_sync_threads(SIM_SITE, (predicate) ? 1 : 0)
#define __syncthreads_or(predicate) (sim::sim_sync_threads(SIM_SITE, (predicate) ? 1 : 0) > 0)
#define __syncthreads_and(predicate) (sim::sim_sync_threads(SIM_SITE, (predicate) ? 0 : 1) == 0)
#define __syncwarp(...) sim::SyncWarp{SIM_SITE}(__VA_ARGS__)
#define __ballot_sync(mask, predicate) sim::sim_ballot(SIM_SITE, mask, (predicate) ? 1 : 0)
#define __any_sync(mask, predicate) (sim::sim_ballot(SIM_SITE, mask, (predicate) ? 1 : 0) != 0)
#define __all_sync(mask, predicate) (sim::sim_ballot(SIM_SITE, mask, (predicate) ? 0 : 1) == 0)
#define __shfl_sync(mask, ...) sim::shuffle<sim::Indexed>(SIM_SITE, mask, __VA_ARGS__)
#define __shfl_xor_sync(mask, ...) sim::shuffle<sim::Xor>(SIM_SITE, mask, __VA_ARGS__)
#define __shfl_up_sync(mask, ...) sim::shuffle<sim::Up>(SIM_SITE, mask, __VA_ARGS__)
#define __shfl_down_sync(mask, ...) sim::shuffle<sim::Down>(SIM_SITE, mask, __VA_ARGS__)
#define __threadfence() sim::fence()
#define __nanosleep(ns) sim::sim_spin(SIM_SITE, "a spin wait")

namespace sim {

struct SyncWarp {                    // so that __syncwarp() and __syncwarp(mask) both work
    Site site;
    void operator()(uint32_t mask = ~0u) const { sim_sync_warp(site, mask); }
};

// The lane a shuffle reads, in a segment of `width` lanes (CUDA C++ Programming Guide, "Warp Shuffle Functions").
struct Indexed { static int source(int lane, int argument, int width) { return (lane & ~(width - 1)) + (argument & (width - 1)); } };
struct Xor { static int source(int lane, int argument, int width) { return (lane ^ argument) < (lane & ~(width - 1)) + width ? lane ^ argument : lane; } };
struct Up { static int source(int lane, int argument, int width) { return (lane & (width - 1)) < argument ? lane : lane - argument; } };
struct Down { static int source(int lane, int argument, int width) { return (lane & (width - 1)) + argument >= width ? lane : lane + argument; } };

template <typename Rule, typename T>
inline T shuffle(Site site, uint32_t mask, T value, int argument, int width = 32) {
    static_assert(sizeof(T) <= 8, "a shuffle moves at most 8 bytes");
    uint64_t bits = 0;
    std::memcpy(&bits, &value, sizeof(T));
    bits = sim_shuffle(site, mask, bits, Rule::source(sim_current->lane, argument, width));
    std::memcpy(&value, &bits, sizeof(T));
    return value;
}

inline void fence() {
#if defined(SIM_TSAN)
    sim_fence();
#else
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
#endif
}

// ---- atomics: relaxed, as on the device; in race mode a preceding __threadfence makes one publish ----

template <typename T, typename Update>
inline T atomic_update(T* address, Update update) {
#if defined(SIM_TSAN)
    sim_before_atomic(address);
#endif
    T old, next;
    __atomic_load(address, &old, __ATOMIC_RELAXED);
    do next = update(old);
    while (!__atomic_compare_exchange(address, &old, &next, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED));
#if defined(SIM_TSAN)
    sim_after_atomic(address);
#endif
    return old;
}

// ---- tensor cores and asynchronous copies; the memory itself is touched here, where sanitizers see it ----

inline void check_aligned(Site site, const void* address, size_t alignment) {
    if (reinterpret_cast<uintptr_t>(address) % alignment)
        sim_fail_at(site, "misaligned address %p: %zu bytes are moved at once", address, alignment);
}

struct MmaSite {                     // mma_16816<T>(d, a, b, c) becomes MmaSite{...}.run<T>(d, a, b, c)
    Site site;
    template <typename T> void run(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], const float (&c)[4]) const {
        sim_mma_16816(site, d, a, b, c, std::is_same_v<T, __nv_bfloat16>);
    }
};

template <int kTiles, bool kTransposed> inline void load_tiles(Site site, uint32_t (&r)[kTiles], const void* row) {
    const void* rows[kWarpSize];
    sim_exchange_rows(site, row, rows);
    int g = sim_current->lane / 4, t = 2 * (sim_current->lane % 4);
    for (int i = 0; i < kTiles; ++i) {
        const void* low = rows[8 * i + (kTransposed ? t : g)];
        const void* high = kTransposed ? rows[8 * i + t + 1] : low;
        check_aligned(site, low, 16);
        r[i] = static_cast<const uint16_t*>(low)[kTransposed ? g : t] |
               static_cast<uint32_t>(static_cast<const uint16_t*>(high)[kTransposed ? g : t + 1]) << 16;
    }
    sim_sync_warp(site, ~0u);        // ldmatrix is one instruction: no lane goes on before all have read
}

// Copies happen at the wait, not at the issue: whoever forgets the wait reads NaN. In race mode the target counts as written at the
// issue too, so that a copy into a buffer that others still read is reported.
inline void copy_async(Site site, void* shared, const void* global, bool valid) {
    check_aligned(site, shared, 16);
    if (valid) check_aligned(site, global, 16);
    Thread* self = sim_current;
    if (self->num_copies == kMaxCopies) sim_fail_at(site, "more than %d asynchronous copies of one thread under way", kMaxCopies);
    self->copies[self->num_copies++] = {shared, valid ? global : nullptr, self->num_groups};
#if defined(SIM_TSAN)
    std::memset(shared, kPoison, 16);
#endif
}

inline void finish_copies(int pending) {
    Thread* self = sim_current;
    int left = 0;
    for (int i = 0; i < self->num_copies; ++i) {
        const Copy& copy = self->copies[i];
        if (copy.group >= self->num_groups - pending) self->copies[left++] = copy;
        else if (copy.source) std::memcpy(copy.target, copy.source, 16);
        else std::memset(copy.target, 0, 16);
    }
    self->num_copies = left;
}

}  // namespace sim

template <typename T> inline T atomicAdd(T* address, T value) { return sim::atomic_update(address, [=](T old) { return static_cast<T>(old + value); }); }
template <typename T> inline T atomicMax(T* address, T value) { return sim::atomic_update(address, [=](T old) { return old < value ? value : old; }); }
template <typename T> inline T atomicMin(T* address, T value) { return sim::atomic_update(address, [=](T old) { return value < old ? value : old; }); }
template <typename T> inline T atomicExch(T* address, T value) { return sim::atomic_update(address, [=](T) { return value; }); }
template <typename T> inline T atomicOr(T* address, T value) { return sim::atomic_update(address, [=](T old) { return static_cast<T>(old | value); }); }
template <typename T> inline T atomicCAS(T* address, T expected, T value) { return sim::atomic_update(address, [=](T old) { return old == expected ? value : old; }); }

// ---- integer intrinsics and mathematics ----

inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline int __clz(int x) { return x ? __builtin_clz(x) : 32; }
inline unsigned __umulhi(unsigned a, unsigned b) { return static_cast<unsigned>(static_cast<uint64_t>(a) * b >> 32); }
// Byte i of the result is the byte of y:x that hexadecimal digit i of the selector names (0 .. 3 of x, 4 .. 7 of y).
inline unsigned __byte_perm(unsigned x, unsigned y, unsigned selector) {
    const uint64_t bytes = static_cast<uint64_t>(y) << 32 | x;
    unsigned result = 0;
    for (int i = 0; i < 4; ++i) result |= static_cast<unsigned>(bytes >> (8 * (selector >> (4 * i) & 7)) & 255) << (8 * i);
    return result;
}
template <typename To, typename From> inline To sim_bits(From x) {
    static_assert(sizeof(To) == sizeof(From));
    To to;
    std::memcpy(&to, &x, sizeof to);
    return to;
}
inline unsigned __float_as_uint(float x) { return sim_bits<unsigned>(x); }
inline float __uint_as_float(unsigned x) { return sim_bits<float>(x); }
inline int __float_as_int(float x) { return sim_bits<int>(x); }
inline float __int_as_float(int x) { return sim_bits<float>(x); }
inline float __expf(float x) { return expf(x); }
inline float __logf(float x) { return logf(x); }
inline float __fdividef(float a, float b) { return a / b; }
inline float rsqrtf(float x) { return 1.0f / sqrtf(x); }
template <typename T> inline T __ldg(const T* address) { return *address; }
template <typename T> constexpr T min(T a, T b) { return b < a ? b : a; }
template <typename T> constexpr T max(T a, T b) { return a < b ? b : a; }
