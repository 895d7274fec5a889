// Quantised weights: blocks of 32 values along K, split into two planes so that every load is 16 bytes and aligned. Part of common.cuh.
//
// format   values plane                                         scales plane                     value
// kDense   T [N][K]                                             none                             w
// kQ8_0    int8 [N][K]                                          half [N][K / 32]                 d q
// kQ4_0    uint8 [N][K / 2], byte j of a block = q[j] | q[j + 16] << 4   half [N][K / 32]        d (q - 8)
// kQ4_1    the same                                             half [N][K / 32][2] = (d, m)     d q + m
// The numbers are exactly those of GGUF's blocks (ggml-common.h, block_q8_0, block_q4_0, block_q4_1); only the bytes' order differs.
#pragma once

enum WeightFormat { kDense = 0, kQ8_0 = 1, kQ4_0 = 2, kQ4_1 = 3 };
constexpr int kBlockValues = 32;

// A weight matrix as a kernel sees it.
template <typename T, int kFormat> struct Weights {
    const void* values;
    const half* scales;
    int32_t columns;
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
