// norm_qkv: q, k, v = norm(residual) W^T + b; q and k normalised and rotated; k and v appended to the KV cache.
//
// in:     residual (rows, hidden) float32; W in panels (matmul.h), rows q heads, k heads, v heads. In a rotated head
//         the loader puts the two elements of a rotary pair side by side (element i beside i + rotary_dim / 2), in q
//         and k alike, which leaves q.k as it was; so a pair never straddles a tile and turns in registers.
// out:    q (rows, num_heads * head_dim) float32; the rows' slots of the cache (cache.h).
// qk_norm: the norm of q and k, where the family has one: kHead each head alone with one weight (head_dim,) for all,
//         kHeads with a weight of its own each, kFull all heads of q, and of k, at once. It needs whole heads, so the
//         projection leaves q and k in scratch and a third phase normalises, turns and stores them.
// items:  rows of the norm and the angles, then pairs of panels, then what is normalised together.
// moves:  4 * hidden * (q + 2 kv) bytes of weights, rows * 4 * (hidden + q + 2 kv).
// source: rotary pairs as in RoFormer (arXiv 2104.09864), y = x * cos + swap(x) * (-sin, sin).
#pragma once

#include "cache.h"
#include "matmul.h"
#include "norm.h"
#include "program.h"

namespace eet {

// One row's factors: head_dim cosines, each twice, then head_dim sines, signed (-, +); 1 and 0 where nothing turns.
inline void rotary_factors(const Model& model, const float* frequencies, int32_t position, float* cosines) {
  float* sines = cosines + model.head_dim;
  const int half = model.rotary_dim / 2;
  for (int first = 0; first < half; first += kLanes) {
    const int count = std::min(kLanes, half - first);
    Vec angles{}, sine, cosine;
    for (int i = 0; i < count; ++i) angles[i] = static_cast<float>(position) * frequencies[first + i];
    sine_cosine(angles, &sine, &cosine);
    for (int i = 0; i < count; ++i) {
      const int at = 2 * (first + i);
      cosines[at] = cosines[at + 1] = cosine[i];
      sines[at] = -sine[i];
      sines[at + 1] = sine[i];
    }
  }
  std::fill(cosines + model.rotary_dim, cosines + model.head_dim, 1.0f);
  std::fill(sines + model.rotary_dim, sines + model.head_dim, 0.0f);
}

// Eight features of a tile's rows on their way to q or the cache.
class GranuleSink {
 public:
  GranuleSink(const Model& model, const Op& op, const Step& step, const float* factors, int64_t feature)
      : model_(model), op_(op), step_(step), head_dim_(model.head_dim), feature_(feature) {
    const int64_t head = feature / head_dim_;
    element_ = feature % head_dim_;
    kind_ = head < model.num_heads ? kQuery : head < model.num_heads + model.num_kv_heads ? kKey : kValue;
    kv_head_ = (head - model.num_heads) % model.num_kv_heads;
    factors_ = op.frequencies && kind_ != kValue ? factors + element_ : nullptr;
  }

  void put(int64_t row, Granule y) const {
    if (factors_) {
      const float* cosines = factors_ + row * 2 * head_dim_;
      y = y * load_granule(cosines) + swap_pairs(y) * load_granule(cosines + head_dim_);
    }
    if (kind_ == kQuery) {
      store_granule(op_.target + row * model_.num_heads * head_dim_ + feature_, y);
      return;
    }
    const CacheHead cache(model_, op_, step_.row_caches[row], kv_head_);
    const int64_t slot = step_.positions[row];
    if (kind_ == kValue) {
      store_granule(cache.values + slot * head_dim_ + element_, y);
      return;
    }
    const int64_t first = slot / kPanel * kPanel, width = cache.tile_width(first);
    float* key = cache.key_tile(first) + element_ * width + slot - first;
    for (int i = 0; i < kGranule; ++i) key[i * width] = y[i];
  }

 private:
  enum Kind { kQuery, kKey, kValue };

  const Model& model_;
  const Op& op_;
  const Step& step_;
  const float* factors_;  // null where nothing turns
  int64_t head_dim_, feature_, element_, kv_head_;
  Kind kind_;
};

// A phase: the norm of q and k, which lie in `raw` (rows, q and k features), on their way to q and the cache.
inline void norm_heads(const Model& model, const Op& op, const Step& step, const float* factors, float* raw,
                       Member& member) {
  const int64_t heads = model.num_heads + model.num_kv_heads, head_dim = model.head_dim, width = heads * head_dim;
  const bool full = op.qk_norm == kFull;
  const int64_t groups = full ? 2 : heads;
  member.for_each(step.rows * groups, [&](int64_t item) {
    const int64_t row = item / groups, group = item % groups;
    const int64_t head = full ? group * model.num_heads : group;
    const bool is_key = head >= model.num_heads;
    const int64_t count = !full ? 1 : is_key ? model.num_kv_heads : model.num_heads;
    const float* weight = is_key ? op.k_norm : op.q_norm;
    if (op.qk_norm == kHeads) weight += (is_key ? head - model.num_heads : head) * head_dim;
    float* x = raw + row * width + head * head_dim;
    norm_row({op.norm_kind, op.norm_eps, weight, nullptr}, x, x, count * head_dim);
    for (int64_t i = 0; i < count * head_dim; i += kGranule)
      GranuleSink(model, op, step, factors, head * head_dim + i).put(row, load_granule(x + i));
  });
}

inline void norm_qkv(const Model& model, const Op& op, const Step& step, Member& member) {
  float* factors = op.scratch + static_cast<int64_t>(step.rows) * op.in_features;
  float* raw = factors + static_cast<int64_t>(step.rows) * 2 * model.head_dim;
  const int64_t raw_width = op.qk_norm ? (model.num_heads + model.num_kv_heads) * model.head_dim : 0;
  const float* x = norm_rows(op, step.rows, nullptr, member, [&](int64_t row) {
    if (op.frequencies) rotary_factors(model, op.frequencies, step.positions[row], factors + row * 2 * model.head_dim);
  });
  matmul(op, x, step.rows, member, [&](const Tile& tile) {
    const int64_t first = tile.first_panel * kPanel;
    const int64_t width = std::min<int64_t>(tile.panels * kPanel, op.out_features - first);
    for (int64_t i = 0; i < width; i += kGranule) {
      const GranuleSink sink(model, op, step, factors, first + i);
      const Granule bias = op.bias ? load_granule(op.bias + first + i) : Granule{};
      for (int r = 0; r < tile.rows; ++r) {
        const Granule y = load_granule(tile.row(r) + i) + bias;
        if (first + i < raw_width)
          store_granule(raw + (tile.first_row + r) * raw_width + first + i, y);
        else
          sink.put(tile.first_row + r, y);
      }
    }
  });
  if (op.qk_norm) norm_heads(model, op, step, factors, raw, member);
}

}  // namespace eet
