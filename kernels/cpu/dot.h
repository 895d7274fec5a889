// Four bytes times four bytes a lane, added up in 32 bits: what the processor has for it.
#pragma once

#include <cstdint>

#include "vector.h"

#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__ARM_FEATURE_DOTPROD)
#include <arm_neon.h>
#endif

namespace eet {

// Four products a lane in one instruction: integer products are then as fast as float ones, however many pieces.
#if defined(__AVX512VNNI__) || defined(__AVXVNNI__) || defined(__ARM_FEATURE_DOTPROD)
constexpr bool kFastDot = true;
#else
constexpr bool kFastDot = false;
#endif

// A running sum of w0 x0 + w1 x1 + w2 x2 + w3 x3 in every lane, exact for kBlock products: w the lane's four unsigned
// bytes, x the same four signed bytes for all lanes, lowest first. kNibbles promises that no w is above 15.
#if defined(__AVX512VNNI__)

template <bool kNibbles>
class Dot {
 public:
  void add(IntVec w, int32_t x) {
    sums_ = reinterpret_cast<IntVec>(_mm512_dpbusd_epi32(reinterpret_cast<__m512i>(sums_), reinterpret_cast<__m512i>(w),
                                                         _mm512_set1_epi32(x)));
  }
  IntVec total() const { return sums_; }

 private:
  IntVec sums_{};
};

#elif defined(__AVXVNNI__) && !defined(__AVX512F__)

template <bool kNibbles>
class Dot {
 public:
  void add(IntVec w, int32_t x) {
    sums_ = reinterpret_cast<IntVec>(_mm256_dpbusd_avx_epi32(reinterpret_cast<__m256i>(sums_),
                                                             reinterpret_cast<__m256i>(w), _mm256_set1_epi32(x)));
  }
  IntVec total() const { return sums_; }

 private:
  IntVec sums_{};
};

#elif defined(__AVX512BW__) || (defined(__AVX2__) && !defined(__AVX512F__))

// Products of bytes come in 16 bits, in pairs: of nibbles eight pairs fit (8 * 2 * 15 * 128 < 2^15), so that they are
// widened once a block. Bytes go in two halves.
#if defined(__AVX512BW__)
typedef __m512i Bytes;
inline Bytes pairs(Bytes w, Bytes x) { return _mm512_maddubs_epi16(w, x); }
inline Bytes add_16(Bytes a, Bytes b) { return _mm512_add_epi16(a, b); }
inline Bytes all_32(int32_t x) { return _mm512_set1_epi32(x); }
inline IntVec widened(Bytes sums, int16_t factor) {
  return reinterpret_cast<IntVec>(_mm512_madd_epi16(sums, _mm512_set1_epi16(factor)));
}
#else
typedef __m256i Bytes;
inline Bytes pairs(Bytes w, Bytes x) { return _mm256_maddubs_epi16(w, x); }
inline Bytes add_16(Bytes a, Bytes b) { return _mm256_add_epi16(a, b); }
inline Bytes all_32(int32_t x) { return _mm256_set1_epi32(x); }
inline IntVec widened(Bytes sums, int16_t factor) {
  return reinterpret_cast<IntVec>(_mm256_madd_epi16(sums, _mm256_set1_epi16(factor)));
}
#endif

template <bool kNibbles>
class Dot {
 public:
  void add(IntVec w, int32_t x) {
    const Bytes four = all_32(x);
    low_ = add_16(low_, pairs(reinterpret_cast<Bytes>(kNibbles ? w : w & 0x0f0f0f0f), four));
    if (!kNibbles) high_ = add_16(high_, pairs(reinterpret_cast<Bytes>((w >> 4) & 0x0f0f0f0f), four));
  }
  IntVec total() const { return kNibbles ? widened(low_, 1) : widened(low_, 1) + widened(high_, 16); }

 private:
  Bytes low_{}, high_{};
};

#elif defined(__ARM_FEATURE_DOTPROD)

template <bool kNibbles>
class Dot {
 public:
  void add(IntVec w, int32_t x) {
    const int8x16_t four = vreinterpretq_s8_s32(vdupq_n_s32(x));
#if defined(__ARM_FEATURE_MATMUL_INT8)
    sums_ = vusdotq_s32(sums_, reinterpret_cast<uint8x16_t>(w), four);
#else
    // Products of signed bytes alone: w - 128 times x, less -128 times x.
    const int8x16_t bytes = reinterpret_cast<int8x16_t>(w), top = vdupq_n_s8(-128);
    sums_ = vdotq_s32(sums_, kNibbles ? bytes : veorq_s8(bytes, top), four);
    if (!kNibbles) less_ = vdotq_s32(less_, top, four);
#endif
  }
  IntVec total() const { return reinterpret_cast<IntVec>(vsubq_s32(sums_, less_)); }

 private:
  int32x4_t sums_ = vdupq_n_s32(0), less_ = vdupq_n_s32(0);
};

#else

template <bool kNibbles>
class Dot {
 public:
  void add(IntVec w, int32_t x) {
    for (int byte = 0; byte < 4; ++byte) sums_ += ((w >> (8 * byte)) & 255) * static_cast<int8_t>(x >> (8 * byte));
  }
  IntVec total() const { return sums_; }

 private:
  IntVec sums_{};
};

#endif

}  // namespace eet
