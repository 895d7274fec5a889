// Panels of float16 and bfloat16 weights, widened as they are read: half the bytes of float32, computed in float32.
//
// A panel is [in_features][16] halves. Few rows stream it through `multiply_halves`; passes of many rows widen it once
// for all of them (matmul.h).
// moves: 32 bytes a panel and k, once for all rows.
#pragma once

#include "blocks.h"
#include "vector.h"

namespace eet {

// One weight as float32.
inline float widen(int32_t format, const uint8_t* from) {
  if (format == kFloat16) return half(from);
  uint16_t bits;
  std::memcpy(&bits, from, 2);
  const uint32_t wide = static_cast<uint32_t>(bits) << 16;
  float value;
  std::memcpy(&value, &wide, 4);
  return value;
}

// kLanes weights as float32.
template <int32_t kFormat>
inline Vec load_wide(const uint8_t* from) {
  if (kFormat == kFloat16) return load_halves(from);
  return vec_of(__builtin_convertvector(*reinterpret_cast<const LooseHalves*>(from), IntVec) << 16);
}

struct HalfOperands {
  const float* x;
  int64_t x_stride;
  const uint8_t* panel;
  int64_t panel_stride;  // bytes to the second panel
  int64_t depth, chain;  // chain: multiply-adds before a sum is put aside
  float* out;
  int64_t out_stride;
};

template <int32_t kFormat, int kRows, int kPanels>
void multiply_halves(const HalfOperands& o) {
  constexpr int kVecs = kPanels * kPanelVecs;
  const uint8_t* from = o.panel;
  for (int64_t begin = 0; begin < o.depth; begin += o.chain) {
    const int64_t end = std::min(o.depth, begin + o.chain);
    Vec sums[kRows][kVecs] = {};
#pragma GCC unroll 4
    for (int64_t k = begin; k < end; ++k, from += 2 * kPanel) {
      Vec weights[kVecs];
      for (int v = 0; v < kVecs; ++v)
        weights[v] = load_wide<kFormat>(from + v / kPanelVecs * o.panel_stride + v % kPanelVecs * 2 * kLanes);
      for (int r = 0; r < kRows; ++r) {
        const float x = o.x[r * o.x_stride + k];
        for (int v = 0; v < kVecs; ++v) sums[r][v] += x * weights[v];
      }
    }
    for (int r = 0; r < kRows; ++r) {
      for (int v = 0; v < kVecs; ++v) {
        float* out = o.out + r * o.out_stride + v * kLanes;
        store(out, begin == 0 ? sums[r][v] : load(out) + sums[r][v]);
      }
    }
  }
}

template <int32_t kFormat, int kPanels, int kMostRows>
void multiply_halves(int rows, HalfOperands o) {
  constexpr int kTogether = kMostRows < 3 ? kMostRows : 3;  // rows that share a pass; what is left goes one by one
  for (; rows >= kTogether; rows -= kTogether, o.x += kTogether * o.x_stride, o.out += kTogether * o.out_stride)
    multiply_halves<kFormat, kTogether, kPanels>(o);
  for (; rows > 0; --rows, o.x += o.x_stride, o.out += o.out_stride) multiply_halves<kFormat, 1, kPanels>(o);
}

// Sums of `rows` <= kMostRows rows and of `panels` panels, one or two.
template <int kMostRows>
void multiply_halves(int32_t format, int rows, int panels, const HalfOperands& o) {
  if (format == kFloat16)
    panels == 2 ? multiply_halves<kFloat16, 2, kMostRows>(rows, o) : multiply_halves<kFloat16, 1, kMostRows>(rows, o);
  else
    panels == 2 ? multiply_halves<kBfloat16, 2, kMostRows>(rows, o) : multiply_halves<kBfloat16, 1, kMostRows>(rows, o);
}

// Columns first .. first + columns of a panel as float32, [columns][16]: a dense panel.
template <int32_t kFormat>
void widen_panel(const uint8_t* panel, int64_t first, int64_t columns, float* out) {
  const uint8_t* from = panel + 2 * kPanel * first;
  for (int64_t i = 0; i < columns * kPanel; i += kLanes) store(out + i, load_wide<kFormat>(from + 2 * i));
}

}  // namespace eet
