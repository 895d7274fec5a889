// Panels of quantised weights (blocks.h) times rows of integer activations (activations.h).
//
// in:     activations (rows, depth / 32); one panel. out: (rows, 16) float32 sums, out_stride apart.
// order:  within a block sums are exact integers; blocks are added in order, one float32 sum an output, so a result
//         depends neither on the rows beside it nor on the processor's instructions.
// moves:  the panel's bytes once for all rows.
#pragma once

#include "activations.h"
#include "blocks.h"
#include "dot.h"

namespace eet {

struct BlockOperands {
  const uint8_t* x;
  int64_t x_stride;      // bytes from row to row
  const uint8_t* panel;
  int64_t panel_stride;  // bytes to the second panel
  int64_t depth;
  float* out;
  int64_t out_stride;
};

// Panels of which a row's broadcast activations are used at once: as many as the registers hold.
#if defined(__AVX512F__) || defined(__aarch64__)
constexpr int kPanelsAtOnce = 2;
#else
constexpr int kPanelsAtOnce = 1;
#endif

constexpr int64_t kAheadOfStream = 4096;  // bytes ahead of what is read that are asked for

typedef int32_t LooseIntVec __attribute__((vector_size(4 * kLanes), aligned(1), may_alias));

// kLanes rows of a block: scales and minima, and the eight quads as unsigned bytes.
template <int32_t kFormat>
struct Lanes {
  IntVec quads[kQuads];
  Vec scales, minima;

  void read(const uint8_t* block, int first) {
    const uint8_t* chunks = block + header_bytes(kFormat) + 4 * first;
    for (int c = 0; c < chunks_of_block(kFormat); ++c) {
      const IntVec bytes = *reinterpret_cast<const LooseIntVec*>(chunks + c * kChunkBytes);
      quads[c] = nibbles(kFormat) ? bytes & 0x0f0f0f0f : bytes;
      if (nibbles(kFormat)) quads[(c + kQuads / 2) % kQuads] = (bytes >> 4) & 0x0f0f0f0f;
    }
    scales = load_halves(block + 2 * first);
    minima = kFormat == kQ41 ? load_halves(block + 2 * (kPanel + first)) : Vec{};
  }
};

// Columns first .. first + columns of a panel as float32, [columns][16]: a dense panel.
template <int32_t kFormat>
void dequantise_panel(const uint8_t* panel, int64_t first, int64_t columns, float* out) {
  const uint8_t* from = panel + first / kBlock * panel_block_bytes(kFormat);
  for (int64_t block = 0; block < columns / kBlock; ++block, from += panel_block_bytes(kFormat)) {
    for (int lanes = 0; lanes < kPanel; lanes += kLanes) {
      Lanes<kFormat> weights;
      weights.read(from, lanes);
      for (int k = 0; k < kBlock; ++k) {
        const IntVec q = ((weights.quads[k / 4] >> (8 * (k % 4))) & 255) - offset_of(kFormat);
        const Vec value = __builtin_convertvector(q, Vec) * weights.scales;
        store(out + (block * kBlock + k) * kPanel + lanes, kFormat == kQ41 ? value + weights.minima : value);
      }
    }
  }
}

inline void dequantise_panel(int32_t format, const uint8_t* panel, int64_t first, int64_t columns, float* out) {
  switch (format) {
    case kQ80:
      return dequantise_panel<kQ80>(panel, first, columns, out);
    case kQ40:
      return dequantise_panel<kQ40>(panel, first, columns, out);
    default:
      return dequantise_panel<kQ41>(panel, first, columns, out);
  }
}

inline int32_t four_bytes(const int8_t* from) {
  int32_t four;
  std::memcpy(&four, from, 4);
  return four;
}

// sums[p] += the block's products of panel p with one row's activations.
template <int32_t kFormat, int kPieces, int kPanels>
inline void add_block(Vec* sums, const Lanes<kFormat>* weights, const Activations<kPieces>& x) {
  constexpr int kOffset = offset_of(kFormat);
  Dot<nibbles(kFormat)> dots[kPieces][kPanels];
  for (int c = 0; c < kQuads; ++c)
    for (int piece = 0; piece < kPieces; ++piece) {
      const int32_t four = four_bytes(x.pieces[piece] + 4 * c);
      for (int p = 0; p < kPanels; ++p) dots[piece][p].add(weights[p].quads[c], four);
    }
  for (int p = 0; p < kPanels; ++p) {
    IntVec low = dots[kPieces - 1][p].total();
    if (kOffset) low -= kOffset * (IntVec{} + x.low_sum);
    Vec products = __builtin_convertvector(low, Vec);
    if (kPieces == 3) {
      IntVec high = (dots[0][p].total() << 8) + dots[kPieces / 2][p].total();
      if (kOffset) high -= kOffset * (IntVec{} + x.high_sum);
      products += __builtin_convertvector(high, Vec) * 256.0f;
    }
    sums[p] += products * (weights[p].scales * x.scale);
    if (kFormat == kQ41) sums[p] += weights[p].minima * x.sum;
  }
}

template <int32_t kFormat, int kPieces, int kPanels, bool kOneRow>
void multiply_lanes(int rows, int first, const BlockOperands& o) {
  const int64_t blocks = o.depth / kBlock;
  const uint8_t *from = o.panel, *x = o.x;
  const int64_t x_stride = o.x_stride, out_stride = o.out_stride;
  float* const out = o.out + first;
  Vec only[kPanels] = {};
  if (!kOneRow)
    for (int r = 0; r < rows; ++r)
      for (int p = 0; p < kPanels; ++p) store(out + r * out_stride + p * kPanel, Vec{});
  for (int64_t block = 0; block < blocks; ++block, from += panel_block_bytes(kFormat)) {
    Lanes<kFormat> weights[kPanels];
    for (int p = 0; p < kPanels; ++p) weights[p].read(from + p * o.panel_stride, first);
    for (int p = 0; p < kPanels; ++p)
      for (int64_t line = 0; line < panel_block_bytes(kFormat); line += 64)
        __builtin_prefetch(from + p * o.panel_stride + kAheadOfStream + line, 0, 3);
    if (kOneRow) {
      add_block<kFormat, kPieces, kPanels>(only, weights, reinterpret_cast<const Activations<kPieces>*>(x)[block]);
      continue;
    }
    for (int r = 0; r < rows; ++r) {
      Vec sums[kPanels];
      for (int p = 0; p < kPanels; ++p) sums[p] = load(out + r * out_stride + p * kPanel);
      add_block<kFormat, kPieces, kPanels>(sums, weights,
                                           reinterpret_cast<const Activations<kPieces>*>(x + r * x_stride)[block]);
      for (int p = 0; p < kPanels; ++p) store(out + r * out_stride + p * kPanel, sums[p]);
    }
  }
  if (kOneRow)
    for (int p = 0; p < kPanels; ++p) store(out + p * kPanel, only[p]);
}

template <int32_t kFormat, int kPieces, int kPanels>
void multiply_blocks(int rows, const BlockOperands& o) {
  for (int v = 0; v < kPanelVecs; ++v) {
    if (rows == 1)
      multiply_lanes<kFormat, kPieces, kPanels, true>(1, v * kLanes, o);
    else
      multiply_lanes<kFormat, kPieces, kPanels, false>(rows, v * kLanes, o);
  }
}

template <int32_t kFormat, int kPieces>
void multiply_blocks(int rows, int panels, BlockOperands o) {
  for (; panels >= kPanelsAtOnce; panels -= kPanelsAtOnce, o.panel += kPanelsAtOnce * o.panel_stride,
                                  o.out += kPanelsAtOnce * kPanel)
    multiply_blocks<kFormat, kPieces, kPanelsAtOnce>(rows, o);
  if (panels > 0) multiply_blocks<kFormat, kPieces, 1>(rows, o);
}

template <int32_t kFormat>
void multiply_blocks(int pieces, int rows, int panels, const BlockOperands& o) {
  pieces == 1 ? multiply_blocks<kFormat, 1>(rows, panels, o) : multiply_blocks<kFormat, 3>(rows, panels, o);
}

// Sums of `rows` rows and of `panels` panels, one or two.
inline void multiply_blocks(int32_t format, int pieces, int rows, int panels, const BlockOperands& o) {
  switch (format) {
    case kQ80:
      return multiply_blocks<kQ80>(pieces, rows, panels, o);
    case kQ40:
      return multiply_blocks<kQ40>(pieces, rows, panels, o);
    default:
      return multiply_blocks<kQ41>(pieces, rows, panels, o);
  }
}

}  // namespace eet
