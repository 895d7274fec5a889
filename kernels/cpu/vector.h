// Vectors of float as wide as the machine's registers, and exp, log, tanh, erf, sine and cosine on them.
//
// GCC's vector extensions are used instead of intrinsics, so one text serves AVX-512, AVX2, NEON and plain SSE2: the
// compiler picks the instructions, a*b + c becomes one fused multiply-add where there is one.
//
// Accuracy: a few units in the last place of float32 over the ranges the ops use, held by
// tests/kernels/cpu/test_vector_math.py. NaN goes in, NaN comes out (of all but log, which is for positive, normal x):
// a poisoned input must stay visible.
// source: coefficients of exp, log, tanh, sine and cosine from the Cephes library (netlib.org/cephes, single
//         precision); erf from Eigen's generic_fast_erf_float (rational, |x| clamped to 4).
#pragma once

#include <cstdint>
#include <cstring>

namespace eet {

#if defined(__AVX512F__)
constexpr int kLanes = 16;
#elif defined(__AVX__)
constexpr int kLanes = 8;
#else
constexpr int kLanes = 4;
#endif

typedef float Vec __attribute__((vector_size(4 * kLanes)));
typedef int32_t IntVec __attribute__((vector_size(4 * kLanes)));
typedef float LooseVec __attribute__((vector_size(4 * kLanes), aligned(4), may_alias));

// Eight floats: the granule every feature count is a multiple of.
constexpr int kGranule = 8;
typedef float Granule __attribute__((vector_size(4 * kGranule)));
typedef float LooseGranule __attribute__((vector_size(4 * kGranule), aligned(4), may_alias));
typedef int32_t GranuleIndex __attribute__((vector_size(4 * kGranule)));

inline Vec load(const float* from) { return *reinterpret_cast<const LooseVec*>(from); }
inline void store(float* to, Vec x) { *reinterpret_cast<LooseVec*>(to) = x; }
inline Granule load_granule(const float* from) { return *reinterpret_cast<const LooseGranule*>(from); }
inline void store_granule(float* to, Granule x) { *reinterpret_cast<LooseGranule*>(to) = x; }

// x in every lane; x - 0 is x for every x, where x + 0 would turn -0 into 0 and cost an addition.
inline Vec splat(float x) { return x - Vec{}; }

inline IntVec bits_of(Vec x) { return reinterpret_cast<IntVec>(x); }
inline Vec vec_of(IntVec bits) { return reinterpret_cast<Vec>(bits); }

inline Vec max(Vec a, Vec b) { return a > b ? a : b; }
inline Vec min(Vec a, Vec b) { return a < b ? a : b; }
inline Vec abs(Vec x) { return vec_of(bits_of(x) & 0x7fffffff); }
inline Vec copy_sign(Vec magnitude, Vec sign) {
  return vec_of((bits_of(magnitude) & 0x7fffffff) | (bits_of(sign) & INT32_MIN));
}

// Joins all lanes, halves first: log2(kLanes) dependent steps.
template <class Join>
float across(Vec x, Join join) {
  float lanes[kLanes];
  store(lanes, x);
  for (int half = kLanes / 2; half > 0; half /= 2)
    for (int lane = 0; lane < half; ++lane) lanes[lane] = join(lanes[lane], lanes[lane + half]);
  return lanes[0];
}

inline float sum(Vec x) {
  return across(x, [](float a, float b) { return a + b; });
}

inline float largest(Vec x) {
  return across(x, [](float a, float b) { return a < b ? b : a; });
}

inline IntVec lane_index() {
  IntVec index;
  for (int lane = 0; lane < kLanes; ++lane) index[lane] = lane;
  return index;
}

// e^x: 2^n e^r with |r| <= ln(2)/2; 0 below -87.3, where float32 turns denormal, and finite up to 88.7.
inline Vec exp(Vec x) {
  constexpr float kLowest = -87.33f, kHighest = 88.72f;
  constexpr float kRound = 12582912.0f;  // 1.5 * 2^23: adding it leaves the rounded integer in the low bits
  const Vec bounded = x > kHighest ? splat(kHighest) : x;
  const Vec shifted = bounded * 1.44269504088896341f + kRound;
  const Vec n = shifted - kRound;
  const Vec r = bounded - n * 0.693359375f - n * -2.12194440e-4f;
  Vec p = r * 1.9875691500e-4f + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * (r * r) + r + 1.0f;
  // 2^n in two factors: n reaches 128, one more than an exponent field holds.
  const IntVec exponent = bits_of(shifted) - bits_of(splat(kRound));
  const IntVec half = exponent >> 1;
  const Vec scaled = p * vec_of((half + 127) << 23) * vec_of((exponent - half + 127) << 23);
  return x < kLowest ? Vec{} : scaled;
}

// log(x) of positive, normal x.
inline Vec log(Vec x) {
  IntVec exponent = (bits_of(x) >> 23) - 126;
  Vec m = vec_of((bits_of(x) & 0x007fffff) | 0x3f000000);  // in [0.5, 1)
  const IntVec small = m < 0.707106781186547524f;
  exponent += small;  // a true lane is -1
  m = (small ? m + m : m) - 1.0f;
  const Vec z = m * m;
  Vec p = m * 7.0376836292e-2f - 1.1514610310e-1f;
  p = p * m + 1.1676998740e-1f;
  p = p * m - 1.2420140846e-1f;
  p = p * m + 1.4249322787e-1f;
  p = p * m - 1.6668057665e-1f;
  p = p * m + 2.0000714765e-1f;
  p = p * m - 2.4999993993e-1f;
  p = p * m + 3.3333331174e-1f;
  const Vec e = __builtin_convertvector(exponent, Vec);
  return m + (p * m * z - 2.12194440e-4f * e - 0.5f * z) + 0.693359375f * e;
}

// 1 / (1 + e^-x).
inline Vec sigmoid(Vec x) { return 1.0f / (1.0f + exp(-x)); }

inline Vec tanh(Vec x) {
  const Vec z = x * x;
  Vec p = z * -5.70498872745e-3f + 2.06390887954e-2f;
  p = p * z - 5.37397155531e-2f;
  p = p * z + 1.33314422036e-1f;
  p = p * z - 3.33332819422e-1f;
  const Vec near_zero = p * z * x + x;
  const Vec far = copy_sign(1.0f - 2.0f / (exp(2.0f * abs(x)) + 1.0f), x);
  return abs(x) < 0.625f ? near_zero : far;
}

inline Vec erf(Vec x) {
  x = x > 4.0f ? splat(4.0f) : x;
  x = x < -4.0f ? splat(-4.0f) : x;
  const Vec z = x * x;
  Vec p = z * -2.72614225801306e-10f + 2.77068142495902e-08f;
  p = p * z - 2.10102402082508e-06f;
  p = p * z - 5.69250639462346e-05f;
  p = p * z - 7.34990630326855e-04f;
  p = p * z - 2.95459980854025e-03f;
  p = p * z - 1.60960333262415e-02f;
  Vec q = z * -1.45660718464996e-05f - 2.13374055278905e-04f;
  q = q * z - 1.68282697438203e-03f;
  q = q * z - 7.37332916720468e-03f;
  q = q * z - 1.42647390514189e-02f;
  return x * p / q;
}

// Sine and cosine of angles in radians, up to 25,000 (beyond that where multiply-add is fused).
// pi/2 is split in three, the first two short enough that their multiples are exact.
inline void sine_cosine(Vec angle, Vec* sine, Vec* cosine) {
  constexpr float kRound = 12582912.0f;
  const Vec shifted = angle * 0.63661977236758134308f + kRound;
  const Vec n = shifted - kRound;
  const Vec r = angle - n * 1.5703125f - n * 4.837512969970703125e-4f - n * 7.54978995489188216e-8f;
  const Vec z = r * r;
  const Vec s = ((z * -1.9515295891e-4f + 8.3321608736e-3f) * z - 1.6666654611e-1f) * z * r + r;
  const Vec c =
      ((z * 2.443315711809948e-5f - 1.388731625493765e-3f) * z + 4.166664568298827e-2f) * z * z - 0.5f * z + 1.0f;
  const IntVec quadrant = bits_of(shifted) & 3;
  const IntVec odd = (quadrant & 1) != 0;
  *sine = vec_of(bits_of(odd ? c : s) ^ ((quadrant & 2) << 30));
  *cosine = vec_of(bits_of(odd ? s : c) ^ (((quadrant + 1) & 2) << 30));
}

// (x1, x0, x3, x2, ...): each element beside its partner of a rotary pair.
inline Granule swap_pairs(Granule x) {
#if defined(__clang__)
  return __builtin_shufflevector(x, x, 1, 0, 3, 2, 5, 4, 7, 6);
#else
  return __builtin_shuffle(x, GranuleIndex{1, 0, 3, 2, 5, 4, 7, 6});
#endif
}

}  // namespace eet
