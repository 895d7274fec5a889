// Tensor-core tiles and asynchronous copies. Part of common.cuh.
#pragma once

// ---- tensor cores: float16 on sm_75 and later, bfloat16 on sm_80 and later ----

// Two floats as T in one register, `low` in the lower half: the element order of every fragment below.
template <typename T> __device__ __forceinline__ uint32_t pack2(float low, float high) {
    union { Vec<T, 2> values; uint32_t word; } u;
    u.values.v[0] = from_float<T>(low);
    u.values.v[1] = from_float<T>(high);
    return u.word;
}

template <typename T> struct MmaKind;
#if defined(__CUDACC__)
template <> struct MmaKind<half> { static constexpr bool kBfloat16 = false; using Pair = __half2; };
template <> struct MmaKind<bfloat16> { static constexpr bool kBfloat16 = true; using Pair = __nv_bfloat162; };
#else
template <> struct MmaKind<half> { static constexpr bool kBfloat16 = false; };
template <> struct MmaKind<bfloat16> { static constexpr bool kBfloat16 = true; };
#endif

// a - b of both of a register's T, each rounded to T.
template <typename T> __device__ __forceinline__ uint32_t subtract_pairs(uint32_t a, uint32_t b) {
#if defined(__CUDACC__)
    using Pair = typename MmaKind<T>::Pair;
    union { uint32_t word; Pair pair; } x, y;
    x.word = a, y.word = b;
    x.pair = __hsub2(x.pair, y.pair);
    return x.word;
#else
    union { uint32_t word; Vec<T, 2> values; } x, y;
    x.word = a, y.word = b;
    return pack2<T>(to_float(x.values.v[0]) - to_float(y.values.v[0]), to_float(x.values.v[1]) - to_float(y.values.v[1]));
#endif
}

// a b + c of both, rounded to T once.
template <typename T> __device__ __forceinline__ uint32_t fma_pairs(uint32_t a, uint32_t b, uint32_t c) {
#if defined(__CUDACC__)
    using Pair = typename MmaKind<T>::Pair;
    union { uint32_t word; Pair pair; } x, y, z;
    x.word = a, y.word = b, z.word = c;
    x.pair = __hfma2(x.pair, y.pair, z.pair);
    return x.word;
#else
    union { uint32_t word; Vec<T, 2> values; } x, y, z;
    x.word = a, y.word = b, z.word = c;
    const auto at = [&](int i) { return fmaf(to_float(x.values.v[i]), to_float(y.values.v[i]), to_float(z.values.v[i])); };
    return pack2<T>(at(0), at(1));
#endif
}

#if defined(__CUDACC__)
__device__ __forceinline__ uint32_t shared_address(const void* pointer) {
    return static_cast<uint32_t>(__cvta_generic_to_shared(pointer));
}
#endif

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
