// norm_qkv: q, k, v = norm(residual) W^T + b; q and k rotated; k and v appended to the KV cache.
//
// in:     residual (rows, hidden) float32; W packed (matmul.h), rows q heads, k heads, v heads. Within a rotated head the
//         packer puts the two elements of a rotary pair side by side (element i beside i + rotary_dim / 2), in q and k
//         alike, which leaves q.k as it was; so a pair never straddles a tile and turns in registers.
// out:    q (rows, num_heads * head_dim) float32; the rows' slots of the cache (cache.h).
// items:  rows of the norm and the angles, then pairs of panels.
// moves:  4 * hidden * (q + 2 kv) bytes of weights, rows * 4 * (hidden + q + 2 kv).
// source: rotary pairs as in RoFormer (arXiv 2104.09864), y = x * cos + swap(x) * (-sin, sin).
#pragma once

#include "cache.h"
#include "matmul.h"
#include "norm.h"
#include "program.h"

namespace eet {

// One row's factors: head_dim cosines, each twice, then head_dim sines, signed (-, +); 1 and 0 where nothing turns.
inline void rotary_factors(const Model& model, int32_t position, float* cosines) {
  float* sines = cosines + model.head_dim;
  for (int i = 0; i < model.rotary_dim / 2; ++i) {
    float sine, cosine;
    sine_cosine(static_cast<float>(position) * model.frequencies[i], &sine, &cosine);
    cosines[2 * i] = cosines[2 * i + 1] = cosine;
    sines[2 * i] = -sine;
    sines[2 * i + 1] = sine;
  }
  for (int i = model.rotary_dim; i < model.head_dim; ++i) {
    cosines[i] = 1.0f;
    sines[i] = 0.0f;
  }
}

// Eight features of one row on their way to q or the cache.
inline void put_granule(const Model& model, const Op& op, const Step& step, int64_t row, int64_t feature, Granule y,
                        const float* factors) {
  const int64_t head_dim = model.head_dim;
  const int64_t head = feature / head_dim, element = feature % head_dim;
  const int64_t kv_head = head - model.num_heads;
  if (op.rotary && kv_head < model.num_kv_heads) {
    const float* cosines = factors + row * 2 * head_dim + element;
    y = y * load_granule(cosines) + swap_pairs(y) * load_granule(cosines + head_dim);
  }
  if (kv_head < 0) {
    store_granule(op.target + row * model.num_heads * head_dim + feature, y);
    return;
  }
  const int64_t slot = step.positions[row];
  const CacheHead cache(model, op, step.row_caches[row], kv_head % model.num_kv_heads);
  if (kv_head >= model.num_kv_heads) {
    store_granule(cache.values + slot * head_dim + element, y);
    return;
  }
  const int64_t first = slot / kPanel * kPanel, width = cache.tile_width(first);
  float* key = cache.key_tile(first) + element * width + slot - first;
  for (int i = 0; i < kGranule; ++i) key[i * width] = y[i];
}

inline void norm_qkv(const Model& model, const Op& op, const Step& step, Member& member) {
  float* factors = op.scratch + static_cast<int64_t>(step.rows) * op.in_features;
  const float* x = norm_rows(op, step.rows, nullptr, member, [&](int64_t row) {
    if (op.rotary) rotary_factors(model, step.positions[row], factors + row * 2 * model.head_dim);
  });
  matmul(x, step.rows, op.in_features, op.weight, panels_of(op.out_features), member, [&](const Tile& tile) {
    const int64_t first = tile.first_panel * kPanel;
    const int64_t width = std::min<int64_t>(tile.panels * kPanel, op.out_features - first);
    for (int64_t i = 0; i < width; i += kGranule) {
      for (int r = 0; r < tile.rows; ++r) {
        Granule y = load_granule(tile.row(r) + i);
        if (op.bias) y += load_granule(op.bias + first + i);
        put_granule(model, op, step, tile.first_row + r, first + i, y, factors);
      }
    }
  });
}

}  // namespace eet
