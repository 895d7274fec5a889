// Four bytes times four bytes a lane, added up in 32 bits: what the processor has for it.
#pragma once

#include <cstdint>

#include "vector.h"

#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__ARM_FEATURE_MATMUL_INT8)
#include <arm_neon.h>
#endif

namespace eet {

// Four products a lane in one instruction: integer products are then as fast as float ones, however many pieces.
#if defined(__AVX512VNNI__) || defined(__AVXVNNI__) || defined(__ARM_FEATURE_MATMUL_INT8)
constexpr bool kFastDot = true;
#else
constexpr bool kFastDot = false;
#endif

// sums + w0 x0 + w1 x1 + w2 x2 + w3 x3 in every lane, exactly: w the lane's four unsigned bytes, x the same four signed
// bytes for all lanes, lowest first. kNibbles promises that no w is above 15.
template <bool kNibbles>
inline IntVec dot(IntVec sums, IntVec w, int32_t x) {
#if defined(__AVX512VNNI__)
  return reinterpret_cast<IntVec>(_mm512_dpbusd_epi32(reinterpret_cast<__m512i>(sums), reinterpret_cast<__m512i>(w),
                                                      _mm512_set1_epi32(x)));
#elif defined(__AVX512BW__)
  const __m512i four = _mm512_set1_epi32(x), bytes = reinterpret_cast<__m512i>(w);
  const auto product = [&](__m512i some) {  // 15 * 128 * 2 fits 16 bits, 255 * 128 * 2 does not
    return _mm512_madd_epi16(_mm512_maddubs_epi16(some, four), _mm512_set1_epi16(1));
  };
  if (kNibbles) return sums + reinterpret_cast<IntVec>(product(bytes));
  const __m512i mask = _mm512_set1_epi8(15);
  const IntVec low = reinterpret_cast<IntVec>(product(_mm512_and_si512(bytes, mask)));
  const IntVec high = reinterpret_cast<IntVec>(product(_mm512_and_si512(_mm512_srli_epi16(bytes, 4), mask)));
  return sums + low + (high << 4);
#elif defined(__AVXVNNI__) && !defined(__AVX512F__)
  return reinterpret_cast<IntVec>(_mm256_dpbusd_avx_epi32(reinterpret_cast<__m256i>(sums), reinterpret_cast<__m256i>(w),
                                                          _mm256_set1_epi32(x)));
#elif defined(__AVX2__) && !defined(__AVX512F__)
  const __m256i four = _mm256_set1_epi32(x), bytes = reinterpret_cast<__m256i>(w);
  const auto product = [&](__m256i some) {  // 15 * 128 * 2 fits 16 bits, 255 * 128 * 2 does not
    return _mm256_madd_epi16(_mm256_maddubs_epi16(some, four), _mm256_set1_epi16(1));
  };
  if (kNibbles) return sums + reinterpret_cast<IntVec>(product(bytes));
  const __m256i mask = _mm256_set1_epi8(15);
  const IntVec low = reinterpret_cast<IntVec>(product(_mm256_and_si256(bytes, mask)));
  const IntVec high = reinterpret_cast<IntVec>(product(_mm256_and_si256(_mm256_srli_epi16(bytes, 4), mask)));
  return sums + low + (high << 4);
#elif defined(__ARM_FEATURE_MATMUL_INT8)
  return reinterpret_cast<IntVec>(vusdotq_s32(reinterpret_cast<int32x4_t>(sums), reinterpret_cast<uint8x16_t>(w),
                                              vreinterpretq_s8_s32(vdupq_n_s32(x))));
#else
  for (int byte = 0; byte < 4; ++byte) sums += ((w >> (8 * byte)) & 255) * static_cast<int8_t>(x >> (8 * byte));
  return sums;
#endif
}

}  // namespace eet
