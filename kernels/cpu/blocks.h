// Quantised weights in panels: GGUF's blocks of 32 values of sixteen rows side by side, no number changed.
//
// A panel is [in_features / 32] blocks; a block holds sixteen rows' float16 scales, in Q4_1 their float16 minima, then
// chunks of 64 bytes, four bytes a row, so that one 32-bit lane of a register holds four neighbours of one row:
//
//     Q8_0        8 chunks: chunk c has values 4c .. 4c + 3, stored as value + 128
//     Q4_0, Q4_1  4 chunks: chunk c has values 4c .. 4c + 3 in its low halves, 16 + 4c .. in its high ones
//
// A weight is scale * (q - offset) + minimum with q unsigned; offset 128, 8 and 0. Bytes a row are those of the file.
// source: block_q8_0, block_q4_0, block_q4_1 of ggml-common.h (github.com/ggml-org/llama.cpp).
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "program.h"
#include "vector.h"

#if defined(__F16C__)
#include <immintrin.h>
#endif

namespace eet {

constexpr int kPanel = 16;
constexpr int kPanelVecs = kPanel / kLanes;
constexpr int kBlock = 32;       // values along a row that share a scale
constexpr int kChunkBytes = 64;  // four bytes of each of the panel's rows
constexpr int kQuads = kBlock / 4;

constexpr bool blocked(int32_t format) { return format >= kQ80; }
constexpr bool nibbles(int32_t format) { return format == kQ40 || format == kQ41; }
constexpr int offset_of(int32_t format) { return format == kQ80 ? 128 : format == kQ40 ? 8 : 0; }
constexpr int64_t header_bytes(int32_t format) { return format == kQ41 ? 4 * kPanel : 2 * kPanel; }
constexpr int64_t chunks_of_block(int32_t format) { return nibbles(format) ? kQuads / 2 : kQuads; }

constexpr int64_t panel_block_bytes(int32_t format) {
  return header_bytes(format) + chunks_of_block(format) * kChunkBytes;
}

// Bytes of a panel of any format.
constexpr int64_t panel_bytes(int32_t format, int64_t depth) {
  if (blocked(format)) return depth / kBlock * panel_block_bytes(format);
  return (format == kFloat32 ? 4 : 2) * kPanel * depth;
}

typedef uint16_t LooseHalves __attribute__((vector_size(2 * kLanes), aligned(2), may_alias));

// kLanes float16, finite, as float32.
inline Vec load_halves(const uint8_t* from) {
#if defined(__F16C__) && defined(__AVX512F__)
  return reinterpret_cast<Vec>(_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from))));
#elif defined(__F16C__)
  return reinterpret_cast<Vec>(_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from))));
#else
  const IntVec bits = __builtin_convertvector(*reinterpret_cast<const LooseHalves*>(from), IntVec);
  const Vec magnitude = vec_of((bits & 0x7fff) << 13) * 0x1p112f;  // moves the exponent, denormals and all
  return vec_of(bits_of(magnitude) | ((bits & 0x8000) << 16));
#endif
}

// The scales of one row's lane, for the few places that look at single weights.
inline float half(const uint8_t* from) {
  uint16_t bits;
  std::memcpy(&bits, from, 2);
  const uint32_t shifted = (bits & 0x7fffu) << 13;
  float magnitude;
  std::memcpy(&magnitude, &shifted, 4);
  magnitude *= 0x1p112f;
  return bits & 0x8000 ? -magnitude : magnitude;
}

// out[k] = weight (lane, k) of a panel, k in 0 .. depth.
template <int32_t kFormat>
void dequantise_row(const uint8_t* panel, int64_t lane, int64_t depth, float* out) {
  for (int64_t block = 0; block < depth / kBlock; ++block, panel += panel_block_bytes(kFormat), out += kBlock) {
    const float scale = half(panel + 2 * lane);
    const float minimum = kFormat == kQ41 ? half(panel + 2 * kPanel + 2 * lane) : 0.0f;
    const uint8_t* bytes = panel + header_bytes(kFormat) + 4 * lane;
    for (int k = 0; k < kBlock; ++k) {
      const int quad = nibbles(kFormat) ? k % 16 / 4 : k / 4;
      const int byte = bytes[quad * kChunkBytes + k % 4];
      const int q = !nibbles(kFormat) ? byte : k < 16 ? byte & 15 : byte >> 4;
      const float product = scale * static_cast<float>(q - offset_of(kFormat));
      out[k] = product + minimum;
    }
  }
}

inline void dequantise_row(int32_t format, const uint8_t* panel, int64_t lane, int64_t depth, float* out) {
  switch (format) {
    case kQ80:
      return dequantise_row<kQ80>(panel, lane, depth, out);
    case kQ40:
      return dequantise_row<kQ40>(panel, lane, depth, out);
    default:
      return dequantise_row<kQ41>(panel, lane, depth, out);
  }
}

// raw (count, blocks of a row) as in the file; row r becomes row destinations[r] of the panels.
template <int32_t kFormat>
void fill_block_panels(const uint8_t* raw, int64_t count, int64_t depth, const int32_t* destinations, uint8_t* panels) {
  constexpr int kHeader = kFormat == kQ41 ? 4 : 2, kQuants = nibbles(kFormat) ? 16 : 32;
  const int64_t blocks = depth / kBlock;
  for (int64_t row = 0; row < count; ++row) {
    const int64_t lane = destinations[row] % kPanel;
    uint8_t* to = panels + destinations[row] / kPanel * panel_bytes(kFormat, depth);
    for (int64_t block = 0; block < blocks; ++block, raw += kHeader + kQuants, to += panel_block_bytes(kFormat)) {
      for (int part = 0; part < kHeader / 2; ++part) std::memcpy(to + 2 * (part * kPanel + lane), raw + 2 * part, 2);
      for (int quad = 0; quad < kQuants / 4; ++quad) {
        uint32_t four;
        std::memcpy(&four, raw + kHeader + 4 * quad, 4);
        if (kFormat == kQ80) four ^= 0x80808080u;
        std::memcpy(to + header_bytes(kFormat) + quad * kChunkBytes + 4 * lane, &four, 4);
      }
    }
  }
}

inline void fill_block_panels(int32_t format, const uint8_t* raw, int64_t count, int64_t depth,
                              const int32_t* destinations, uint8_t* panels) {
  switch (format) {
    case kQ80:
      return fill_block_panels<kQ80>(raw, count, depth, destinations, panels);
    case kQ40:
      return fill_block_panels<kQ40>(raw, count, depth, destinations, panels);
    default:
      return fill_block_panels<kQ41>(raw, count, depth, destinations, panels);
  }
}

}  // namespace eet
