// half and bfloat16 as storage types: kernels convert to float and back, and nothing adds in half by accident.
#pragma once

#include <cstdint>
#include <cstring>

#if !defined(__F16C__)
#error "build with -mf16c, so that _Float16 converts by the processor's own instruction"
#endif

namespace sim {

inline float half_bits_to_float(uint16_t bits) {
    _Float16 x;
    std::memcpy(&x, &bits, 2);
    return static_cast<float>(x);
}

inline uint16_t float_to_half_bits(float x) {   // to nearest, ties to even
    const _Float16 rounded = static_cast<_Float16>(x);
    uint16_t bits;
    std::memcpy(&bits, &rounded, 2);
    return bits;
}

inline float bfloat16_bits_to_float(uint16_t bits) {
    uint32_t wide = static_cast<uint32_t>(bits) << 16;
    float x;
    std::memcpy(&x, &wide, 4);
    return x;
}

inline uint16_t float_to_bfloat16_bits(float x) {   // to nearest, ties to even; NaN stays NaN
    uint32_t wide;
    std::memcpy(&wide, &x, 4);
    if ((wide & 0x7FFFFFFFu) > 0x7F800000u) return 0x7FFF;
    return static_cast<uint16_t>((wide + 0x7FFFu + (wide >> 16 & 1)) >> 16);
}

}  // namespace sim

struct __half { uint16_t bits; };
struct __nv_bfloat16 { uint16_t bits; };
using half = __half;

inline float __half2float(__half x) { return sim::half_bits_to_float(x.bits); }
inline __half __float2half_rn(float x) { return {sim::float_to_half_bits(x)}; }
inline float __bfloat162float(__nv_bfloat16 x) { return sim::bfloat16_bits_to_float(x.bits); }
inline __nv_bfloat16 __float2bfloat16_rn(float x) { return {sim::float_to_bfloat16_bits(x)}; }

struct float2 { float x, y; };
struct alignas(16) float4 { float x, y, z, w; };
struct alignas(8) uint2 { unsigned x, y; };
struct alignas(16) uint4 { unsigned x, y, z, w; };
struct alignas(8) int2 { int x, y; };
struct alignas(16) int4 { int x, y, z, w; };
inline float2 make_float2(float x, float y) { return {x, y}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
inline uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }
inline int2 make_int2(int x, int y) { return {x, y}; }
inline int4 make_int4(int x, int y, int z, int w) { return {x, y, z, w}; }
