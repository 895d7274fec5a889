// What every kernel may use. Included first by every .cu; compiles unchanged by NVRTC, nvcc and, with kernels/sim/, by g++.
//
// Kernels contain no inline PTX, no `extern __shared__`, no `<<<>>>` and no cooperative_groups: each such thing is a wrapper here, a
// real instruction on the GPU and a small function in the simulator. Here: environment, conversion, vectors, warp and block; at the end
// come tiles.cuh (tensor cores, asynchronous copies), blocks.cuh (between blocks, overlapping launches), quantised.cuh and random.cuh.
#pragma once

// ---- environment ----

#if defined(__CUDACC__)
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#if defined(__CUDACC_RTC__)
using int8_t = signed char;
using uint8_t = unsigned char;
using int16_t = short;
using uint16_t = unsigned short;
using int32_t = int;
using uint32_t = unsigned;
using int64_t = long long;
using uint64_t = unsigned long long;
#else
#include <cstdint>
#endif
// SMEM(float, partial, 8): a static shared array `float partial[8]`. DYN_SMEM(float, tile): the launch's dynamic shared memory as `float* tile`.
#define SMEM(T, name, count) __shared__ __align__(16) T name[count]
#define DYN_SMEM(T, name)                                        \
    extern __shared__ __align__(16) unsigned char dynamic_shared[]; \
    T* name = reinterpret_cast<T*>(dynamic_shared)
// Waits until `condition`, which must read memory by ld_acquire. Every block must be resident: cooperative launches only.
#define SPIN_UNTIL(condition) while (!(condition)) __nanosleep(20)
#define REQUIRE_COOPERATIVE()
#define CHECK_ALIGNED(address, bytes)
#else
#include <cuda_sim.h>
#define SMEM(T, name, count) SIM_SHARED(T, name, count)
#define DYN_SMEM(T, name) SIM_DYNAMIC_SHARED(T, name)
#define SPIN_UNTIL(condition) while (!(condition)) sim::sim_spin(SIM_SITE, #condition)
#define REQUIRE_COOPERATIVE() sim::sim_require_cooperative(SIM_SITE)
#define CHECK_ALIGNED(address, bytes) sim::check_aligned(SIM_SITE, address, bytes)
#endif

using bfloat16 = __nv_bfloat16;

constexpr int kWarp = 32;
constexpr uint32_t kFullMask = 0xFFFFFFFFu;
constexpr float kLog2E = 1.4426950408889634f;

// ---- conversion: float in registers, T in memory ----

__device__ __forceinline__ float to_float(float x) { return x; }
__device__ __forceinline__ float to_float(half x) { return __half2float(x); }
__device__ __forceinline__ float to_float(bfloat16 x) { return __bfloat162float(x); }

template <typename T> struct FromFloat;
template <> struct FromFloat<float> {
    static __device__ __forceinline__ float of(float x) { return x; }
};
template <> struct FromFloat<half> {
    static __device__ __forceinline__ half of(float x) { return __float2half_rn(x); }
};
template <> struct FromFloat<bfloat16> {
    static __device__ __forceinline__ bfloat16 of(float x) { return __float2bfloat16_rn(x); }
};
// from_float<T>(x): x rounded to T, to nearest even.
template <typename T> __device__ __forceinline__ T from_float(float x) { return FromFloat<T>::of(x); }

// ---- vectors: N values moved by as few, as wide instructions as their bytes allow ----

template <typename T, int N> struct Vec {
    T v[N];
};

template <int kBytes> struct Word;
template <> struct Word<16> { using type = uint4; };
template <> struct Word<8> { using type = uint2; };
template <> struct Word<4> { using type = uint32_t; };
template <> struct Word<2> { using type = uint16_t; };
template <> struct Word<1> { using type = uint8_t; };

template <typename T, int N> constexpr int kWordBytes = sizeof(T) * N < 16 ? sizeof(T) * N : 16;

// Loads that stay where they are written. Before pdl_wait they are under way when the wait begins: a `.nc` load, or one through `const
// __restrict__`, has no order against the wait in ptxas' eyes, which moves the wait in front of it. After pdl_wait they are of the memory
// model that the wait belongs to: the compiler makes a `.nc` load of any other once it sees that this launch does not write there.
#if defined(__CUDA_ARCH__)
#define DEFINE_ORDERED_LOADS(name, qualifier)                                                                                     \
    __device__ __forceinline__ uint4 name(const uint4* address) {                                                                 \
        uint4 w;                                                                                                                  \
        asm volatile("ld.global" qualifier ".v4.u32 {%0, %1, %2, %3}, [%4];"                                                      \
                     : "=r"(w.x), "=r"(w.y), "=r"(w.z), "=r"(w.w) : "l"(address));                                                \
        return w;                                                                                                                 \
    }                                                                                                                             \
    __device__ __forceinline__ uint2 name(const uint2* address) {                                                                 \
        uint2 w;                                                                                                                  \
        asm volatile("ld.global" qualifier ".v2.u32 {%0, %1}, [%2];" : "=r"(w.x), "=r"(w.y) : "l"(address));                      \
        return w;                                                                                                                 \
    }                                                                                                                             \
    __device__ __forceinline__ uint32_t name(const uint32_t* address) {                                                           \
        uint32_t w;                                                                                                               \
        asm volatile("ld.global" qualifier ".u32 %0, [%1];" : "=r"(w) : "l"(address));                                            \
        return w;                                                                                                                 \
    }                                                                                                                             \
    __device__ __forceinline__ uint16_t name(const uint16_t* address) {                                                           \
        uint16_t w;                                                                                                               \
        asm volatile("ld.global" qualifier ".u16 %0, [%1];" : "=h"(w) : "l"(address));                                            \
        return w;                                                                                                                 \
    }
#else
#define DEFINE_ORDERED_LOADS(name, qualifier) \
    template <typename W> __device__ __forceinline__ W name(const W* address) { return *address; }
#endif
DEFINE_ORDERED_LOADS(load_stream_word, ".L1::no_allocate")
DEFINE_ORDERED_LOADS(load_ordered_word, "")
#undef DEFINE_ORDERED_LOADS

// load<N>(p): N values from p, which is aligned to min(16, N * sizeof(T)) bytes.
template <int N, typename T> __device__ __forceinline__ Vec<T, N> load(const T* address) {
    constexpr int kBytes = kWordBytes<T, N>, kWords = sizeof(T) * N / kBytes;
    using W = typename Word<kBytes>::type;
    CHECK_ALIGNED(address, kBytes);
    union { W words[kWords]; Vec<T, N> values; } u;
#pragma unroll
    for (int i = 0; i < kWords; ++i) u.words[i] = reinterpret_cast<const W*>(address)[i];
    return u.values;
}

// load_stream<N>(p): the same for data read once and never written during the launch (weights), ordered; no room taken in L1.
template <int N, typename T> __device__ __forceinline__ Vec<T, N> load_stream(const T* address) {
    constexpr int kBytes = kWordBytes<T, N>, kWords = sizeof(T) * N / kBytes;
    using W = typename Word<kBytes>::type;
    CHECK_ALIGNED(address, kBytes);
    union { W words[kWords]; Vec<T, N> values; } u;
#pragma unroll
    for (int i = 0; i < kWords; ++i) u.words[i] = load_stream_word(reinterpret_cast<const W*>(address) + i);
    return u.values;
}

// load_early<N>(p): the same for constants that many blocks read (norms, biases, scales, frequencies) and for what was written at least
// two launches ago, which is complete when this launch may start.
template <int N, typename T> __device__ __forceinline__ Vec<T, N> load_early(const T* address) {
    constexpr int kBytes = kWordBytes<T, N>, kWords = sizeof(T) * N / kBytes;
    using W = typename Word<kBytes>::type;
    CHECK_ALIGNED(address, kBytes);
    union { W words[kWords]; Vec<T, N> values; } u;
#pragma unroll
    for (int i = 0; i < kWords; ++i) u.words[i] = load_ordered_word(reinterpret_cast<const W*>(address) + i);
    return u.values;
}

template <typename T> __device__ __forceinline__ T load_early(const T* address) { return load_early<1>(address).v[0]; }

// load_fresh<N>(p): the same for what a kernel of the step writes, after pdl_wait.
template <int N, typename T> __device__ __forceinline__ Vec<T, N> load_fresh(const T* address) { return load_early<N>(address); }
template <typename T> __device__ __forceinline__ T load_fresh(const T* address) { return load_fresh<1>(address).v[0]; }

// Brings the line at p into the L2 cache; nothing waits for it.
__device__ __forceinline__ void prefetch(const void* address) {
#if defined(__CUDA_ARCH__)
    asm volatile("prefetch.global.L2 [%0];" ::"l"(address));
#else
    (void)address;
#endif
}

template <int N, typename T> __device__ __forceinline__ void store(T* address, const Vec<T, N>& values) {
    constexpr int kBytes = kWordBytes<T, N>, kWords = sizeof(T) * N / kBytes;
    using W = typename Word<kBytes>::type;
    CHECK_ALIGNED(address, kBytes);
    union { W words[kWords]; Vec<T, N> values; } u;
    u.values = values;
#pragma unroll
    for (int i = 0; i < kWords; ++i) reinterpret_cast<W*>(address)[i] = u.words[i];
}

template <int N, typename T> __device__ __forceinline__ void to_floats(const Vec<T, N>& values, float (&out)[N]) {
#pragma unroll
    for (int i = 0; i < N; ++i) out[i] = to_float(values.v[i]);
}

template <int N, typename T> __device__ __forceinline__ void load_floats(const T* address, float (&out)[N]) {
    to_floats(load<N>(address), out);
}

template <int N, typename T> __device__ __forceinline__ void load_floats_stream(const T* address, float (&out)[N]) {
    to_floats(load_stream<N>(address), out);
}

template <int N, typename T> __device__ __forceinline__ void load_floats_early(const T* address, float (&out)[N]) {
    to_floats(load_early<N>(address), out);
}

template <int N, typename T> __device__ __forceinline__ void load_floats_fresh(const T* address, float (&out)[N]) {
    to_floats(load_fresh<N>(address), out);
}

template <int N, typename T> __device__ __forceinline__ void store_floats(T* address, const float (&in)[N]) {
    Vec<T, N> values;
#pragma unroll
    for (int i = 0; i < N; ++i) values.v[i] = from_float<T>(in[i]);
    store(address, values);
}

// ---- warp and block. Blocks are one-dimensional, a multiple of 32 threads; all lanes take part ----

__device__ __forceinline__ int lane_id() { return threadIdx.x % kWarp; }
__device__ __forceinline__ int warp_id() { return threadIdx.x / kWarp; }

// The sum over each group of kWidth neighbouring lanes (a power of two), in every lane, added in one fixed order.
template <int kWidth = kWarp> __device__ __forceinline__ float warp_sum(float x) {
#pragma unroll
    for (int offset = kWidth / 2; offset > 0; offset /= 2) x += __shfl_xor_sync(kFullMask, x, offset);
    return x;
}

template <int kWidth = kWarp> __device__ __forceinline__ float warp_max(float x) {
#pragma unroll
    for (int offset = kWidth / 2; offset > 0; offset /= 2) x = fmaxf(x, __shfl_xor_sync(kFullMask, x, offset));
    return x;
}

// The sum over the block, in every thread. Begins and ends with a barrier's worth of safety: it may be called again at once.
template <int kThreads> __device__ __forceinline__ float block_sum(float x) {
    constexpr int kWarps = kThreads / kWarp;
    static_assert(kThreads % kWarp == 0 && kWarps <= kWarp, "a block is whole warps, at most 32");
    SMEM(float, partial, kWarps);
    x = warp_sum(x);
    if (kWarps == 1) return x;
    if (lane_id() == 0) partial[warp_id()] = x;
    __syncthreads();
    x = warp_sum(lane_id() < kWarps ? partial[lane_id()] : 0.0f);
    __syncthreads();
    return x;
}

template <int kThreads> __device__ __forceinline__ float block_max(float x) {
    constexpr int kWarps = kThreads / kWarp;
    static_assert(kThreads % kWarp == 0 && kWarps <= kWarp, "a block is whole warps, at most 32");
    SMEM(float, partial, kWarps);
    x = warp_max(x);
    if (kWarps == 1) return x;
    if (lane_id() == 0) partial[warp_id()] = x;
    __syncthreads();
    x = warp_max(partial[lane_id() < kWarps ? lane_id() : 0]);
    __syncthreads();
    return x;
}

#include "blocks.cuh"
#include "quantised.cuh"
#include "random.cuh"
#include "tiles.cuh"
