// y = x W^T for weights in panels: one microkernel for decode (one row, weights streamed) and prefill (many rows,
// weights from the cache).
//
// Panels: W (out_features, in_features) is stored as [ceil(out_features / 16)][in_features][16] float32: sixteen output
// features side by side, in_features running, rows padded with zeros. A step k of the microkernel loads the panels' 16
// weights once and multiplies them by x[row][k], broadcast, for each of its rows; the sums stay in registers:
//
//                     panel p            panel p + 1
//     k ->      [w0 w1 ... w15]      [w16 w17 ... w31]
//     row 0 x0k  += x0k * ...         += x0k * ...
//     row 1 x1k  += x1k * ...         += x1k * ...
//
// in:     x (rows, depth) float32, any row stride; panels as above. The same microkernel computes attention's q k^T and
//         p V, whose panels are the cache's own (attention.h).
// out:    tiles of kTileRows x 32 sums in a small buffer in the first-level cache, handed to the caller's epilogue.
// order:  every output is summed over k in chains of kChain multiply-adds, whatever the tile: results do not depend on
//         the number of rows or threads.
// needs:  nothing of alignment; the last panel is whole (padded).
// moves:  64 bytes a panel and k, once for all rows.
// source: the register tile of Goto and van de Geijn, "Anatomy of high-performance matrix multiplication" (2008).
#pragma once

#include <algorithm>
#include <cstdint>
#include <utility>

#include "halves.h"
#include "matmul_blocks.h"
#include "program.h"
#include "threads.h"
#include "vector.h"

namespace eet {

constexpr int kTilePanels = 2;
constexpr int kTileWidth = kTilePanels * kPanel;

// Registers that hold sums; the rest hold weights and the broadcast x.
#if defined(__AVX512F__) || defined(__aarch64__)
constexpr int kSums = 24;
#elif defined(__AVX__)
constexpr int kSums = 12;
#else
constexpr int kSums = 8;
#endif
constexpr int kTileRows = kPanelVecs == 1 ? kSums / kTilePanels : kSums / kPanelVecs;

// Multiply-adds in a row before a sum is put aside: rounding grows with a chain's length.
constexpr int64_t kChain = 192;

// Up to so many rows are bound by memory, not by arithmetic.
constexpr int kFewRows = kTileRows / 2;

// Bytes of the next weights that a waiting member reads ahead, in all.
constexpr int64_t kAheadBytes = 256 << 10;

// Rows of one item of a phase: enough to use its panels well, few enough to balance.
constexpr int64_t kItemRows = 11 * kTileRows;

// x[row * x_stride + k] and panel p's weights at b + p * panel_stride + k * step.
struct Operands {
  const float* x;
  int64_t x_stride;
  const float* b;
  int64_t panel_stride, step;
  int64_t depth;
  float* out;  // row r's sums at out + r * out_stride
  int64_t out_stride;
  const float* next;  // what to bring into the second-level cache meanwhile; null for nothing
};

// Floats of `next` brought in at every step: few rows bring in as much as they read, the tiles of a prefill pass share.
constexpr int64_t brought_per_step(int rows) { return rows > kFewRows ? 2 : kTileWidth; }

template <int kRows, int kPanels, bool kBring>
void multiply(const Operands& o) {
  constexpr int kVecs = kPanels * kPanelVecs;
  constexpr int64_t kBrought = brought_per_step(kRows);
  const float* b = o.b;
  for (int64_t begin = 0; begin < o.depth; begin += kChain) {
    const int64_t end = std::min(o.depth, begin + kChain);
    Vec sums[kRows][kVecs] = {};
#pragma GCC unroll 8
    for (int64_t k = begin; k < end; ++k, b += o.step) {
      if (kBring)
        for (int64_t i = 0; i < kBrought; i += 16) __builtin_prefetch(o.next + kBrought * k + i, 0, 2);
      Vec weights[kVecs];
      for (int v = 0; v < kVecs; ++v) weights[v] = load(b + v / kPanelVecs * o.panel_stride + v % kPanelVecs * kLanes);
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

// Half a panel: the last eight features of a value row whose head_dim is no multiple of 16.
template <int kRows>
void multiply_granule(const Operands& o) {
  Granule sums[kRows] = {};
  const float* b = o.b;
  for (int64_t k = 0; k < o.depth; ++k, b += o.step) {
    const Granule weights = load_granule(b);
    for (int r = 0; r < kRows; ++r) sums[r] += o.x[r * o.x_stride + k] * weights;
  }
  for (int r = 0; r < kRows; ++r) store_granule(o.out + r * o.out_stride, sums[r]);
}

using Kernel = void (*)(const Operands&);

// Narrow registers hold the sums of two panels only of few rows; the others take their panels one by one.
constexpr bool holds(int rows, int panels) { return panels == 1 || rows * panels * kPanelVecs <= kSums; }

template <int kPanels, bool kBring, int... kRow>
Kernel pick(int rows, std::integer_sequence<int, kRow...>) {
  static constexpr Kernel kernels[] = {(holds(kRow + 1, kPanels) ? &multiply<kRow + 1, kPanels, kBring> : nullptr)...};
  return kernels[rows - 1];
}

template <int... kRow>
Kernel pick_granule(int rows, std::integer_sequence<int, kRow...>) {
  static constexpr Kernel kernels[] = {&multiply_granule<kRow + 1>...};
  return kernels[rows - 1];
}

using TileRows = std::make_integer_sequence<int, kTileRows>;

template <int kPanels>
void multiply(int rows, const Operands& o) {
  (o.next ? pick<kPanels, true>(rows, TileRows()) : pick<kPanels, false>(rows, TileRows()))(o);
}

// Sums of `rows` <= kTileRows rows and one or two panels.
inline void multiply(int rows, int panels, Operands o) {
  if (panels == 2 && holds(rows, 2)) return multiply<2>(rows, o);
  for (int panel = 0; panel < panels; ++panel, o.b += o.panel_stride, o.out += kPanel) {
    multiply<1>(rows, o);
    o.next = nullptr;
  }
}

inline void multiply_granule(int rows, const Operands& o) { pick_granule(rows, TileRows())(o); }

inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// A finished tile: rows first_row .. first_row + rows, features of panels first_panel .. first_panel + panels.
struct Tile {
  int64_t first_row, first_panel;
  int rows, panels;
  float* sums;

  float* row(int r) const { return sums + r * kTileWidth; }
};

inline int64_t panels_of(int64_t features) { return ceil_div(features, kPanel); }

// Panels of the op's weight; gate and up are padded apart.
inline int64_t panels_of(const Op& op) {
  return op.gated ? 2 * panels_of(op.out_features / 2) : panels_of(op.out_features);
}

// The first weights of this member's share of the next projection: a decode step waits for memory, so a member that
// waits for the others may as well begin to read.
inline void look_ahead(const Op& op, int64_t rows, Member& member) {
  if (!op.next_projection || rows > kFewRows) return;
  const Op& next = *op.next_projection;
  const int64_t item_bytes = kTilePanels * panel_bytes(next.format, next.in_features);
  const Range items = member.share(ceil_div(panels_of(next), kTilePanels));
  const int64_t bytes = std::min<int64_t>(items.size() * item_bytes, kAheadBytes);
  member.look_ahead(Ahead(next.weight + items.begin * item_bytes, bytes));
}

// A tile of dense panels; `last` when no panels follow it.
inline void dense_tile(const Op& op, const float* x, int64_t tiles_before, const Tile& tile, bool last) {
  const int64_t depth = op.in_features, panel_size = depth * kPanel;
  const float* b = reinterpret_cast<const float*>(op.weight) + tile.first_panel * panel_size;
  // The item's tiles bring in the next panels together, each a part of them; a decode step's reads are a stream.
  const int64_t brought = tiles_before * depth * brought_per_step(tile.rows);
  const bool more = tile.rows > kFewRows && !last && brought < kTilePanels * panel_size;
  const float* next = more ? b + kTilePanels * panel_size + brought : nullptr;
  multiply(tile.rows, tile.panels,
           {x + tile.first_row * depth, depth, b, panel_size, kPanel, depth, tile.sums, kTileWidth, next});
}

// A tile of quantised panels.
inline void block_tile(const Op& op, const Tile& tile) {
  const int64_t depth = op.in_features, row_bytes = depth / kBlock * activation_bytes(op.pieces);
  const int64_t panel_stride = panel_bytes(op.format, depth);
  multiply_blocks(op.format, op.pieces, tile.rows, tile.panels,
                  {op.activations + tile.first_row * row_bytes, row_bytes, op.weight + tile.first_panel * panel_stride,
                   panel_stride, depth, tile.sums, kTileWidth});
}

// A tile of few rows and panels of halves.
inline void half_tile(const Op& op, const float* x, const Tile& tile) {
  const int64_t depth = op.in_features, panel_stride = panel_bytes(op.format, depth);
  multiply_halves<kFewRows>(op.format, tile.rows, tile.panels,
                            {x + tile.first_row * depth, depth, op.weight + tile.first_panel * panel_stride,
                             panel_stride, depth, kChain, tile.sums, kTileWidth});
}

// Passes of many rows whose panels become float32 first, a chain's length at a time, for all rows of the item: halves,
// and quantised weights with exact activations where integers are slow.
inline bool as_floats(const Op& op, int64_t rows) {
  if (op.format == kFloat32 || rows <= kFewRows) return false;
  return !blocked(op.format) || (op.pieces == 3 && !kFastDot);
}

inline void to_floats(int32_t format, const uint8_t* panel, int64_t first, int64_t columns, float* out) {
  if (format == kFloat16) return widen_panel<kFloat16>(panel, first, columns, out);
  if (format == kBfloat16) return widen_panel<kBfloat16>(panel, first, columns, out);
  dequantise_panel(format, panel, first, columns, out);
}

// sums (rows of the item, kTileWidth) of the panels from `tile` on; tile.rows is not looked at.
inline void dequantised_rows(const Op& op, const float* x, Range rows, const Tile& tile, float* sums) {
  static_assert(kChain % kBlock == 0, "a chain is whole blocks");
  alignas(64) float weights[kTilePanels * kChain * kPanel], part[kTileRows * kTileWidth];
  const int64_t depth = op.in_features, tiles = ceil_div(rows.size(), kTileRows);
  for (int64_t first = 0; first < depth; first += kChain) {
    const int64_t columns = std::min(kChain, depth - first);
    for (int panel = 0; panel < tile.panels; ++panel)
      to_floats(op.format, op.weight + (tile.first_panel + panel) * panel_bytes(op.format, depth), first, columns,
                weights + panel * columns * kPanel);
    for (int64_t t = 0; t < tiles; ++t) {
      const Range some = even_part(rows.size(), t, tiles);
      float* total = sums + some.begin * kTileWidth;
      multiply(static_cast<int>(some.size()), tile.panels,
               {x + (rows.begin + some.begin) * depth + first, depth, weights, columns * kPanel, kPanel, columns, part,
                kTileWidth, nullptr});
      for (int64_t i = 0; i < some.size() * kTileWidth; i += kLanes)
        store(total + i, first == 0 ? load(part + i) : load(total + i) + load(part + i));
    }
  }
}

// A phase: x (rows, in_features) times the op's weight; calls done(tile) for every tile. Where the weight is quantised
// a phase before it turns x to integers.
// An item is a block of rows times one tile's width of panels; a member's blocks of the same panels follow each other.
template <class Done>
void matmul(const Op& op, const float* x, int64_t rows, Member& member, Done done) {
  const int64_t depth = op.in_features, panels = panels_of(op);
  const int64_t blocks = ceil_div(rows, kItemRows);
  const bool floats = as_floats(op, rows);
  if (!floats) quantise_rows(op, x, rows, member);
  look_ahead(op, rows, member);
  if (!blocked(op.format) && rows <= kFewRows)  // another member has just written it
    for (int64_t i = 0; i < rows * depth; i += kPanel) __builtin_prefetch(x + i, 0, 3);
  member.for_each(ceil_div(panels, kTilePanels) * blocks, [&](int64_t item) {
    alignas(64) float sums[kItemRows * kTileWidth];
    const Range block = even_part(rows, item % blocks, blocks);
    const int64_t panel = item / blocks * kTilePanels;
    const int width = static_cast<int>(std::min<int64_t>(kTilePanels, panels - panel));
    const int64_t tiles = ceil_div(block.size(), kTileRows);
    if (floats) dequantised_rows(op, x, block, Tile{block.begin, panel, 0, width, sums}, sums);
    for (int64_t t = 0; t < tiles; ++t) {
      const Range part = even_part(block.size(), t, tiles);
      float* const own = floats ? sums + part.begin * kTileWidth : sums;
      const Tile tile{block.begin + part.begin, panel, static_cast<int>(part.size()), width, own};
      if (op.format == kFloat32)
        dense_tile(op, x, item % blocks * tiles + t, tile, panel + kTilePanels >= panels);
      else if (blocked(op.format) && !floats)
        block_tile(op, tile);
      else if (!floats)
        half_tile(op, x, tile);
      done(tile);
    }
  });
}

}  // namespace eet
