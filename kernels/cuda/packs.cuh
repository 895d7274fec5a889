// Weights as a lane of a decode projection holds them: 16 bytes of a row, raw, and their scales. Part of gemv.cuh.
//
// Half types go through tensor cores when weights are quantised, whatever the batch. Of up to two rows the integers are multiplied, which
// a half type holds exactly; the sums of each block of 32 are kept apart and multiplied by the block's scale once, in float32. With more
// rows that would be more sums than weights, and the weights are scaled and rounded to T, as transformers has them.
// source: the 0x6400 trick of FasterTransformer's interleaved_numeric_conversion.h (arXiv 2211.10017)
#pragma once

#include "common.cuh"

// Values of a row in 16 bytes, and blocks of scales that four lanes side by side have among them.
template <typename T, int kFormat>
constexpr int kPackValues = kFormat == kDense ? 16 / static_cast<int>(sizeof(T)) : kFormat == kQ8_0 ? 16 : 32;
template <int kFormat> constexpr int kPackBlocks = kFormat == kDense ? 0 : kFormat == kQ8_0 ? 2 : 4;
template <int kFormat> constexpr int kScaleParts = kFormat == kQ4_1 ? 2 : 1;   // d, or d and m

// Raw, so that nothing waits for it before it is used. kApart: a lane needs the scales of the two blocks whose sums tensor cores give it.
template <typename T, int kFormat, bool kApart> struct Pack {
    static constexpr int kScales = kFormat == kDense ? 0 : kApart ? 2 : 1;
    uint4 bits;
    Vec<half, kScaleParts<kFormat>> scale[kScales ? kScales : 1];   // unused for kDense
};

// Columns k .. of a row, zeros from column `end` on. `k` is this lane's own: kPackValues more than that of the lane before.
template <bool kApart, typename T, int kFormat>
__device__ __forceinline__ Pack<T, kFormat, kApart> load_pack(const Weights<T, kFormat>& w, int64_t row, int k, int end) {
    constexpr int kParts = kScaleParts<kFormat>, kScales = Pack<T, kFormat, kApart>::kScales;
    Pack<T, kFormat, kApart> pack;
    pack.bits = make_uint4(0, 0, 0, 0);
    const unsigned columns = w.columns;
    if (k < end) {
        constexpr int kBytes = kFormat == kDense ? sizeof(T) : 1, kPerByte = kFormat == kDense || kFormat == kQ8_0 ? 1 : 2;
        const int64_t at = row * static_cast<int>(columns / kPerByte * kBytes) + static_cast<unsigned>(k) / kPerByte * kBytes;
        union { Vec<uint8_t, 16> bytes; uint4 word; } u;
        u.bytes = load_stream<16>(static_cast<const uint8_t*>(w.values) + at);
        pack.bits = u.word;
    }
    if constexpr (kFormat != kDense) {
        const unsigned lane = lane_id() % 4, lanes_first = k - lane * kPackValues<T, kFormat>, blocks = columns / kBlockValues;
        const unsigned first = kScales == 1 ? static_cast<unsigned>(k) / kBlockValues
                                            : lanes_first / kBlockValues + 2 * lane % kPackBlocks<kFormat>;
        const half* scales = w.scales + (row * static_cast<int>(blocks) + first) * kParts;
#pragma unroll
        for (int i = 0; i < kScales; ++i) {
#pragma unroll
            for (int j = 0; j < kParts; ++j) pack.scale[i].v[j] = from_float<half>(0.0f);
            if ((first + i) * kBlockValues < static_cast<unsigned>(end)) pack.scale[i] = load_early<kParts>(scales + i * kParts);
        }
    }
    return pack;
}

// ---- as floats ----

// 0 .. 255 as a float by two full-rate instructions; the conversion instruction runs at an eighth of that.
__device__ __forceinline__ float small_float(uint32_t x) { return __uint_as_float(0x4B000000u | x) - 8388608.0f; }

// Values N slice .. N slice + N - 1 of a pack.
template <int N, typename T, int kFormat> __device__ __forceinline__ void unpack(const Pack<T, kFormat, false>& pack, int slice, float (&out)[N]) {
    if constexpr (kFormat == kDense) {
        union { uint4 word; Vec<T, N> values; } u;
        u.word = pack.bits;
        to_floats(u.values, out);
    } else {
        const uint32_t words[4] = {pack.bits.x, pack.bits.y, pack.bits.z, pack.bits.w};
        const float d = to_float(pack.scale[0].v[0]);
#pragma unroll
        for (int i = 0; i < N; ++i) {
            const int at = N * slice + i, byte = at % 16;
            const uint32_t word = words[byte / 4] >> (8 * (byte % 4));
            if constexpr (kFormat == kQ8_0) out[i] = d * (small_float((word ^ 128u) & 255u) - 128.0f);
            if constexpr (kFormat == kQ4_0) out[i] = d * (small_float(word >> (at / 16 * 4) & 15u) - 8.0f);
            if constexpr (kFormat == kQ4_1) out[i] = fmaf(d, small_float(word >> (at / 16 * 4) & 15u), to_float(pack.scale[0].v[1]));
        }
    }
}

// ---- as pairs of a half type ----

// Bytes 0, 1 and 2, 3 of a word, each less `zero`, as pairs of T. Exact: float16 holds 1024 + byte, bfloat16 128 + byte up to 255.
template <typename T> __device__ __forceinline__ void byte_pairs(uint32_t bytes, int zero, uint32_t (&out)[2]) {
    constexpr uint32_t kMagic = MmaKind<T>::kBfloat16 ? 0x43434343u : 0x64646464u;
    const float offset = (MmaKind<T>::kBfloat16 ? 128.0f : 1024.0f) + static_cast<float>(zero);
    const uint32_t offsets = pack2<T>(offset, offset);
    out[0] = subtract_pairs<T>(__byte_perm(bytes, kMagic, 0x4140), offsets);
    out[1] = subtract_pairs<T>(__byte_perm(bytes, kMagic, 0x4342), offsets);
}

// The bytes of a word, each less `zero`, as floats.
__device__ __forceinline__ void byte_floats(uint32_t bytes, int zero, float (&out)[4]) {
    const float offset = 8388608.0f + static_cast<float>(zero);
#pragma unroll
    for (int i = 0; i < 4; ++i) out[i] = __uint_as_float(__byte_perm(bytes, 0x4B000000u, 0x7650 + i)) - offset;
}

// The bytes of word i of a slice of 8 values, and what stands for 0 in them.
template <int kFormat> __device__ __forceinline__ uint32_t slice_bytes(const uint4& bits, int slice, int i) {
    const uint32_t words[4] = {bits.x, bits.y, bits.z, bits.w}, word = words[(2 * slice + i) % 4];
    return kFormat == kQ8_0 ? word ^ 0x80808080u : (slice < 2 ? word : word >> 4) & 0x0F0F0F0Fu;
}
template <int kFormat> constexpr int kZero = kFormat == kQ8_0 ? 128 : kFormat == kQ4_0 ? 8 : 0;

// The integers of a slice as four registers of two T. A bfloat16 has no room for a whole byte beside a bias: it is a float32's upper half.
template <typename T, int kFormat> __device__ __forceinline__ void integer_pairs(const uint4& bits, int slice, uint32_t (&out)[4]) {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
        const uint32_t bytes = slice_bytes<kFormat>(bits, slice, i);
        if constexpr (MmaKind<T>::kBfloat16 && kFormat == kQ8_0) {
            float values[4];
            byte_floats(bytes, kZero<kFormat>, values);
#pragma unroll
            for (int j = 0; j < 2; ++j)
                out[2 * i + j] = __byte_perm(__float_as_uint(values[2 * j]), __float_as_uint(values[2 * j + 1]), 0x7632);
        } else {
            byte_pairs<T>(bytes, kZero<kFormat>, reinterpret_cast<uint32_t(&)[2]>(out[2 * i]));
        }
    }
}

// The values of a slice, rounded to T once. float16 has the scale's own type; bfloat16 is rounded from float32.
template <typename T, int kFormat>
__device__ __forceinline__ void value_pairs(const uint4& bits, const Vec<half, kScaleParts<kFormat>>& scale, int slice, uint32_t (&out)[4]) {
    const float d = to_float(scale.v[0]), m = kFormat == kQ4_1 ? to_float(scale.v[kScaleParts<kFormat> - 1]) : 0.0f;
    if constexpr (MmaKind<T>::kBfloat16) {
#pragma unroll
        for (int i = 0; i < 2; ++i) {
            float values[4];
            byte_floats(slice_bytes<kFormat>(bits, slice, i), kZero<kFormat>, values);
#pragma unroll
            for (int j = 0; j < 2; ++j) out[2 * i + j] = pack2<T>(fmaf(d, values[2 * j], m), fmaf(d, values[2 * j + 1], m));
        }
    } else {
        integer_pairs<T, kFormat>(bits, slice, out);
#pragma unroll
        for (int i = 0; i < 4; ++i) out[i] = fma_pairs<T>(out[i], pack2<T>(d, d), pack2<T>(m, m));
    }
}

// What tensor cores multiply of a slice of a pack.
template <typename T, int kFormat, bool kApart>
__device__ __forceinline__ void slice_pairs(const Pack<T, kFormat, kApart>& pack, int slice, uint32_t (&out)[4]) {
    if constexpr (kFormat == kDense) {
        out[0] = pack.bits.x, out[1] = pack.bits.y, out[2] = pack.bits.z, out[3] = pack.bits.w;
    } else if constexpr (kApart) {
        integer_pairs<T, kFormat>(pack.bits, slice, out);
    } else {
        value_pairs<T, kFormat>(pack.bits, pack.scale[0], slice, out);
    }
}
