// What every kernel may use. Included first by every .cu; compiles unchanged by NVRTC, nvcc and, with kernels/sim/, by g++.
//
// Kernels contain no inline PTX, no `extern __shared__`, no `<<<>>>` and no cooperative_groups: each such thing is a wrapper here, a
// real instruction on the GPU and a small function in the simulator. Sections: environment, conversion, vectors, warp and block,
// tensor cores, asynchronous copies, between blocks, launches that overlap, quantised weights, random numbers.
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

__device__ __forceinline__ uint4 load_stream_word(const uint4* address) {
#if defined(__CUDA_ARCH__)
    uint4 w;
    asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(w.x), "=r"(w.y), "=r"(w.z), "=r"(w.w) : "l"(address));
    return w;
#else
    return *address;
#endif
}

__device__ __forceinline__ uint2 load_stream_word(const uint2* address) {
#if defined(__CUDA_ARCH__)
    uint2 w;
    asm volatile("ld.global.nc.L1::no_allocate.v2.u32 {%0, %1}, [%2];" : "=r"(w.x), "=r"(w.y) : "l"(address));
    return w;
#else
    return *address;
#endif
}

__device__ __forceinline__ uint32_t load_stream_word(const uint32_t* address) {
#if defined(__CUDA_ARCH__)
    uint32_t w;
    asm volatile("ld.global.nc.L1::no_allocate.u32 %0, [%1];" : "=r"(w) : "l"(address));
    return w;
#else
    return *address;
#endif
}

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

// load_stream<N>(p): the same for data read once and never written during the launch (weights): no room taken in L1.
template <int N, typename T> __device__ __forceinline__ Vec<T, N> load_stream(const T* address) {
    constexpr int kBytes = kWordBytes<T, N>, kWords = sizeof(T) * N / kBytes;
    using W = typename Word<kBytes>::type;
    CHECK_ALIGNED(address, kBytes);
    union { W words[kWords]; Vec<T, N> values; } u;
#pragma unroll
    for (int i = 0; i < kWords; ++i) u.words[i] = load_stream_word(reinterpret_cast<const W*>(address) + i);
    return u.values;
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

// ---- tensor cores: float16 on sm_75 and later, bfloat16 on sm_80 and later ----

// Two floats as T in one register, `low` in the lower half: the element order of every fragment below.
template <typename T> __device__ __forceinline__ uint32_t pack2(float low, float high) {
    union { Vec<T, 2> values; uint32_t word; } u;
    u.values.v[0] = from_float<T>(low);
    u.values.v[1] = from_float<T>(high);
    return u.word;
}

#if defined(__CUDACC__)
__device__ __forceinline__ uint32_t shared_address(const void* pointer) {
    return static_cast<uint32_t>(__cvta_generic_to_shared(pointer));
}
#endif

template <typename T> struct MmaKind;
template <> struct MmaKind<half> { static constexpr bool kBfloat16 = false; };
template <> struct MmaKind<bfloat16> { static constexpr bool kBfloat16 = true; };

// d = a b + c over a warp: a 16 x 16 row-major, b 16 x 8 column-major, c and d 16 x 8 float32 (d may be c).
// With g = lane / 4, t = lane % 4: a[0] = A[g][2t..], a[1] = A[g + 8][2t..], a[2] = A[g][2t + 8..], a[3] = A[g + 8][2t + 8..];
// b[0] = B[2t..][g], b[1] = B[2t + 8..][g]; d[0], d[1] = D[g][2t..], d[2], d[3] = D[g + 8][2t..].
// source: PTX ISA, "Matrix Fragments for mma.m16n8k16 with floating point type".
#if defined(__CUDACC__)
template <typename T>
__device__ __forceinline__ void mma_16816(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], const float (&c)[4]) {
#if !defined(__CUDA_ARCH__)
    (void)d, (void)a, (void)b, (void)c;
#elif __CUDA_ARCH__ >= 800
    if constexpr (MmaKind<T>::kBfloat16)
        asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%10,%11,%12,%13};"
                     : "=f"(d[0]), "=f"(d[1]), "=f"(d[2]), "=f"(d[3])
                     : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]),
                       "f"(c[0]), "f"(c[1]), "f"(c[2]), "f"(c[3]));
    else
        asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%10,%11,%12,%13};"
                     : "=f"(d[0]), "=f"(d[1]), "=f"(d[2]), "=f"(d[3])
                     : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]),
                       "f"(c[0]), "f"(c[1]), "f"(c[2]), "f"(c[3]));
#else
    // sm_75 has the tile in two halves along k, and no bfloat16: the launcher refuses that before it gets here.
    if constexpr (MmaKind<T>::kBfloat16) __trap();
    float e[4];
    asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5}, {%6}, {%7,%8,%9,%10};"
                 : "=f"(e[0]), "=f"(e[1]), "=f"(e[2]), "=f"(e[3])
                 : "r"(a[0]), "r"(a[1]), "r"(b[0]), "f"(c[0]), "f"(c[1]), "f"(c[2]), "f"(c[3]));
    asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5}, {%6}, {%7,%8,%9,%10};"
                 : "=f"(d[0]), "=f"(d[1]), "=f"(d[2]), "=f"(d[3])
                 : "r"(a[2]), "r"(a[3]), "r"(b[1]), "f"(e[0]), "f"(e[1]), "f"(e[2]), "f"(e[3]));
#endif
}

// Four 8 x 8 tiles of 16-bit elements from shared memory: lanes 8i..8i+7 give the addresses of tile i's rows (16 bytes each, aligned);
// r[i] receives elements (row lane / 4, columns 2 (lane % 4) and the next) of tile i. `_trans` swaps rows and columns of each tile.
__device__ __forceinline__ void ldmatrix_x4(uint32_t (&r)[4], const void* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(shared_address(row)) : "memory");
}
__device__ __forceinline__ void ldmatrix_x4_trans(uint32_t (&r)[4], const void* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(shared_address(row)) : "memory");
}
// Two tiles: the addresses of lanes 0..15 count.
__device__ __forceinline__ void ldmatrix_x2(uint32_t (&r)[2], const void* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0, %1}, [%2];"
                 : "=r"(r[0]), "=r"(r[1]) : "r"(shared_address(row)) : "memory");
}
__device__ __forceinline__ void ldmatrix_x2_trans(uint32_t (&r)[2], const void* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0, %1}, [%2];"
                 : "=r"(r[0]), "=r"(r[1]) : "r"(shared_address(row)) : "memory");
}
#else
#define mma_16816 sim::MmaSite{SIM_SITE}.run
#define ldmatrix_x4(r, row) sim::load_tiles<4, false>(SIM_SITE, r, row)
#define ldmatrix_x4_trans(r, row) sim::load_tiles<4, true>(SIM_SITE, r, row)
#define ldmatrix_x2(r, row) sim::load_tiles<2, false>(SIM_SITE, r, row)
#define ldmatrix_x2_trans(r, row) sim::load_tiles<2, true>(SIM_SITE, r, row)
#endif

// ---- asynchronous copies, global to shared, 16 bytes a thread; a plain copy before sm_80 ----
//
//     cp_async16(target, source); ... cp_async_commit(); ... cp_async_wait<0>(); __syncthreads();
// The copy is there for the issuing thread after its wait, for others after the barrier that follows.

#if defined(__CUDACC__)
__device__ __forceinline__ void cp_async16(void* shared, const void* global) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(shared_address(shared)), "l"(global) : "memory");
#else
    *static_cast<uint4*>(shared) = *static_cast<const uint4*>(global);
#endif
}
// Writes zeros, and reads nothing, when `valid` is false.
__device__ __forceinline__ void cp_async16_or_zero(void* shared, const void* global, bool valid) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(shared)), "l"(global), "r"(valid ? 16 : 0) : "memory");
#else
    *static_cast<uint4*>(shared) = valid ? *static_cast<const uint4*>(global) : make_uint4(0, 0, 0, 0);
#endif
}
__device__ __forceinline__ void cp_async_commit() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
    asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}
// Waits until at most kPending of this thread's committed groups are still under way.
template <int kPending> __device__ __forceinline__ void cp_async_wait() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
    asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
#endif
}
#else
#define cp_async16(shared, global) sim::copy_async(SIM_SITE, shared, global, true)
#define cp_async16_or_zero(shared, global, valid) sim::copy_async(SIM_SITE, shared, global, valid)
inline void cp_async_commit() { sim::sim_current->num_groups += 1; }
template <int kPending> inline void cp_async_wait() { sim::finish_copies(kPending); }
#endif

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

// Stores where the host reads while the kernel runs (mapped pinned memory): everything written before is visible first.
__device__ __forceinline__ void st_system(int32_t* address, int32_t value) {
#if defined(__CUDACC__)
    asm volatile("st.release.sys.global.u32 [%0], %1;" ::"l"(address), "r"(value) : "memory");
#else
    __atomic_store_n(address, value, __ATOMIC_RELEASE);
#endif
}

// True, in every thread, for the last of `num_blocks` blocks to call: what the others stored before is then visible to it. `counter`
// starts at 0 and is 0 again afterwards. source: CUDA samples, threadFenceReduction.
__device__ __forceinline__ bool is_last_block(uint32_t* counter, uint32_t num_blocks) {
    SMEM(uint32_t, ticket, 1);
    __syncthreads();
    if (threadIdx.x == 0) {
        __threadfence();
        ticket[0] = atomicAdd(counter, 1u);
        __threadfence();
        if (ticket[0] == num_blocks - 1) atomicExch(counter, 0u);
    }
    __syncthreads();
    return ticket[0] == num_blocks - 1;
}

// All blocks of a cooperative launch meet. `counter` starts at 0 and only grows, so it serves every barrier of every launch.
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

// ---- quantised weights: blocks of 32 values along K, split into two planes so that every load is 16 bytes and aligned ----
//
// format   values plane                                         scales plane                     value
// kDense   T [N][K]                                             none                             w
// kQ8_0    int8 [N][K]                                          half [N][K / 32]                 d q
// kQ4_0    uint8 [N][K / 2], byte j of a block = q[j] | q[j + 16] << 4   half [N][K / 32]        d (q - 8)
// kQ4_1    the same                                             half [N][K / 32][2] = (d, m)     d q + m
// The numbers are exactly those of GGUF's blocks (ggml-common.h, block_q8_0, block_q4_0, block_q4_1); only the bytes' order differs.

enum WeightFormat { kDense = 0, kQ8_0 = 1, kQ4_0 = 2, kQ4_1 = 3 };
constexpr int kBlockValues = 32;

// A weight matrix as a kernel sees it.
template <typename T, int kFormat> struct Weights {
    const void* values;
    const half* scales;
    int64_t columns;
};

// Scale and offset of the block that column k of `row` lies in: value = d * q + m.
template <int kFormat> __device__ __forceinline__ void load_scale(const half* scales, int64_t block, float& d, float& m) {
    if constexpr (kFormat == kQ4_1) {
        float pair[2];
        load_floats<2>(scales + 2 * block, pair);
        d = pair[0];
        m = pair[1];
    } else {
        d = to_float(scales[block]);
        m = kFormat == kQ4_0 ? -8.0f * d : 0.0f;
    }
}

__device__ __forceinline__ float signed_byte(uint32_t word, int i) { return static_cast<float>(static_cast<int8_t>(word >> (8 * i))); }
__device__ __forceinline__ float nibble(uint32_t word, int i, int shift) { return static_cast<float>(word >> (8 * i + shift) & 15u); }

// 16 values of a Q8_0 block from 16 bytes.
__device__ __forceinline__ void dequantise_q8(const uint4& q, float d, float (&out)[16]) {
    const uint32_t words[4] = {q.x, q.y, q.z, q.w};
#pragma unroll
    for (int i = 0; i < 16; ++i) out[i] = d * signed_byte(words[i / 4], i % 4);
}

// All 32 values of a Q4_0 or Q4_1 block from its 16 bytes.
__device__ __forceinline__ void dequantise_q4(const uint4& q, float d, float m, float (&out)[32]) {
    const uint32_t words[4] = {q.x, q.y, q.z, q.w};
#pragma unroll
    for (int i = 0; i < 16; ++i) {
        out[i] = fmaf(d, nibble(words[i / 4], i % 4, 0), m);
        out[i + 16] = fmaf(d, nibble(words[i / 4], i % 4, 4), m);
    }
}

// N values (4 or 8) of `row` from column k, a multiple of N: the step that every format shares.
template <int N, typename T, int kFormat>
__device__ __forceinline__ void load_weights(const Weights<T, kFormat>& w, int64_t row, int k, float (&out)[N]) {
    static_assert(N == 4 || N == 8, "a step is 4 or 8 values");
    const int64_t at = row * w.columns + k;
    if constexpr (kFormat == kDense) {
        load_floats_stream(static_cast<const T*>(w.values) + at, out);
    } else {
        float d, m;
        load_scale<kFormat>(w.scales, at / kBlockValues, d, m);
        const int shift = kFormat != kQ8_0 && k % kBlockValues >= 16 ? 4 : 0;
        const int64_t byte = kFormat == kQ8_0 ? at : at / kBlockValues * 16 + k % 16;
        const Vec<uint8_t, N> bytes = load_stream<N>(static_cast<const uint8_t*>(w.values) + byte);
#pragma unroll
        for (int i = 0; i < N; ++i) {
            const uint32_t q = bytes.v[i];
            out[i] = kFormat == kQ8_0 ? d * static_cast<float>(static_cast<int8_t>(q)) : fmaf(d, static_cast<float>(q >> shift & 15u), m);
        }
    }
}

// ---- random numbers: Philox4x32-10, Salmon et al., "Parallel random numbers: as easy as 1, 2, 3" (SC 2011) ----

__device__ __forceinline__ uint4 philox4x32_10(uint4 counter, uint2 key) {
#pragma unroll
    for (int round = 0; round < 10; ++round) {
        const uint32_t high0 = __umulhi(0xD2511F53u, counter.x), low0 = 0xD2511F53u * counter.x;
        const uint32_t high1 = __umulhi(0xCD9E8D57u, counter.z), low1 = 0xCD9E8D57u * counter.z;
        counter = make_uint4(high1 ^ counter.y ^ key.x, low1, high0 ^ counter.w ^ key.y, low0);
        key = make_uint2(key.x + 0x9E3779B9u, key.y + 0xBB67AE85u);
    }
    return counter;
}
