// attention: softmax(scale q k^T) v over each row's own slots, causal; grouped-query heads, window, soft cap, ALiBi.
//
// in:      q (rows, num_heads, head_dim) float32; the layer's cache (cache.h), slots 0 .. position filled.
// out:     target (rows, num_heads * head_dim) float32.
// items:   decode, a sequence with one row: its slots are cut into chunks of 64, an item is one KV head's chunk, and
//          all query heads of the group use each key and value as it is read; so three KV heads on two threads balance
//          at any context. It leaves (max, sum, weighted values) a query head in scratch; a second phase joins them, a
//          query head an item. Prefill, a sequence with more rows: a block of kQueryRows rows of one query head that
//          walks over tiles of slots with an online softmax. Where slots are cut does not depend on threads, nor does
//          the result.
// scratch: decode, (max_batch * num_heads * chunks of max_context) partials of head_dim + 16 floats.
// moves:   keys and values of every filled slot, once in decode.
// source:  Milakov and Gimelshein, "Online normalizer calculation for softmax" (arXiv 1805.02867); the split over the
//          cache is Flash-Decoding's (https://crfm.stanford.edu/2023/10/12/flashdecoding.html).
#pragma once

#include <cmath>
#include <limits>

#include "cache.h"
#include "matmul.h"
#include "program.h"

namespace eet {

constexpr int64_t kChunk = 64;                 // slots of a decode unit
constexpr int64_t kSlots = 128;                // slots scored at a time; the row stride of scores
constexpr int64_t kQueryRows = 12;             // rows of a prefill unit
constexpr int64_t kRowSlots = 16;              // these rounded up to whole vectors
constexpr int64_t kMaxHeadDim = 256;
constexpr int64_t kPartialHead = 16;           // floats before a partial's values: max, sum, padding

// scores[r * kSlots + i] = q[r] . key[first + i] for `slots` slots from `first`, a multiple of 16; whole tiles are
// written. As many floats as are read come in from `next` meanwhile, if it is given.
inline void score(const CacheHead& cache, const float* q, int64_t q_stride, int64_t rows, int64_t first, int64_t slots,
                  float* scores, const float* next) {
  const int64_t head_dim = cache.head_dim, parts = ceil_div(rows, kTileRows);
  for (int64_t tile = 0; tile < slots;) {
    const int64_t slot = first + tile, stride = cache.tile_width(slot);
    const bool two = tile + kPanel < slots && cache.tile_width(slot + kPanel) == stride;
    for (int64_t part = 0; part < parts; ++part) {
      const Range some = even_part(rows, part, parts);
      multiply(static_cast<int>(some.size()), two ? 2 : 1,
               {q + some.begin * q_stride, q_stride, cache.key_tile(slot), kPanel * head_dim, stride, head_dim,
                scores + some.begin * kSlots + tile, kSlots, next ? next + tile * head_dim : nullptr});
    }
    tile += two ? 2 * kPanel : kPanel;
  }
}

// out[r] = scales[r] * out[r] + sum over i of weights[r * kSlots + i] * value[first + i]; out rows head_dim apart.
// `next` as in score.
inline void add_values(const CacheHead& cache, const float* weights, int64_t rows, int64_t first, int64_t slots,
                       const float* scales, float* out, const float* next) {
  alignas(64) float sums[kTileRows * kTileWidth];
  const int64_t head_dim = cache.head_dim, parts = ceil_div(rows, kTileRows);
  for (int64_t part = 0; part < parts; ++part) {
    const Range some = even_part(rows, part, parts);
    const int count = static_cast<int>(some.size());
    for (int64_t element = 0; element < head_dim; element += kTileWidth) {
      const int64_t width = std::min<int64_t>(kTileWidth, head_dim - element), panels = width / kPanel;
      Operands operands{weights + some.begin * kSlots, kSlots, cache.values + first * head_dim + element, kPanel,
                        head_dim, slots, sums, kTileWidth, next ? next + slots * element : nullptr};
      if (panels > 0) multiply(count, static_cast<int>(panels), operands);
      if (width % kPanel) {
        operands.b += panels * kPanel;
        operands.out += panels * kPanel;
        multiply_granule(count, operands);
      }
      for (int r = 0; r < count; ++r) {
        float* y = out + (some.begin + r) * head_dim + element;
        for (int64_t i = 0; i < width; i += kGranule)
          store_granule(y + i, load_granule(y + i) * scales[some.begin + r] + load_granule(sums + r * kTileWidth + i));
      }
    }
  }
}

// The running softmax of up to kQueryRows rows: for each, the highest score so far and the sum of e^(score - max).
// A max of -infinity has seen nothing; arrays are whole vectors.
struct Softmax {
  alignas(64) float max[kRowSlots], sum[kRowSlots], shrink[kRowSlots];

  Softmax() {
    std::fill(max, max + kRowSlots, -std::numeric_limits<float>::infinity());
    std::fill(sum, sum + kRowSlots, 0.0f);
  }

  // Turns the scores of `slots` slots from `first` into weights in place; row r weighs only slots of attended(r), and
  // ALiBi takes slope(r) from a score for every slot between it and the last of these.
  // shrink[r] is then what sums over earlier slots must be multiplied by.
  template <class Attended, class Slope>
  void absorb(const Model& model, float* scores, int64_t rows, int64_t first, int64_t slots, Attended attended,
              Slope slope) {
    static_assert(std::max<int64_t>(kQueryRows, kTileRows) <= kRowSlots && kRowSlots % kLanes == 0, "rows fit");
    static_assert(kQueryRows + kPanel <= kSlots, "every row attends to one of the first slots scored");
    const int64_t padded = ceil_div(slots, kPanel) * kPanel;
    alignas(64) float previous[kRowSlots];
    std::copy(max, max + kRowSlots, previous);
    for (int64_t r = 0; r < rows; ++r) {
      const Range range = attended(r);
      const float highest =
          scale_and_mask(model, scores + r * kSlots, padded, range.begin - first, range.end - first, slope(r));
      max[r] = std::fmax(max[r], highest);
    }
    for (int64_t r = 0; r < rows; r += kLanes) store(shrink + r, exp(load(previous + r) - load(max + r)));
    for (int64_t r = 0; r < rows; ++r) {
      Vec total{};
      for (int64_t i = r * kSlots; i < r * kSlots + padded; i += kLanes) {
        const Vec weight = exp(load(scores + i) - max[r]);
        total += weight;
        store(scores + i, weight);
      }
      sum[r] = sum[r] * shrink[r] + eet::sum(total);
    }
  }

 private:
  // Final scores of one row, -infinity outside begin .. end; returns the highest.
  static float scale_and_mask(const Model& model, float* scores, int64_t padded, int64_t begin, int64_t end,
                              float slope) {
    const Vec nothing = splat(-std::numeric_limits<float>::infinity());
    const IntVec lane = lane_index();
    const int32_t low = static_cast<int32_t>(std::max<int64_t>(begin, 0));
    const int32_t high = static_cast<int32_t>(std::min(end, padded));
    Vec highest = nothing;
    for (int64_t i = 0; i < padded; i += kLanes) {
      Vec s = load(scores + i) * model.attention_scale;
      if (model.attention_soft_cap > 0.0f) s = model.attention_soft_cap * tanh(s / model.attention_soft_cap);
      const IntVec slot = lane + static_cast<int32_t>(i);
      if (slope > 0.0f) s += slope * __builtin_convertvector(slot - static_cast<int32_t>(end - 1), Vec);
      s = (slot >= low) & (slot < high) ? s : nothing;
      highest = s < highest ? highest : s;  // a NaN score stays
      store(scores + i, s);
    }
    return largest(highest);
  }
};

// Slots the row at `position` attends to.
inline Range attended_slots(const Op& op, int64_t position) {
  const int64_t begin = op.window > 0 ? std::max<int64_t>(0, position + 1 - op.window) : 0;
  return {begin, position + 1};
}

// Decode units of a sequence whose only row is at `position`: chunks first .. last, for each KV head.
inline Range chunks_of(const Op& op, int64_t position) {
  const Range slots = attended_slots(op, position);
  return {slots.begin / kChunk, (slots.end + kChunk - 1) / kChunk};
}

inline float* partial(const Model& model, const Op& op, int64_t sequence, int64_t head, int64_t chunk) {
  const int64_t chunks = (model.max_context + kChunk - 1) / kChunk;
  return op.scratch + ((sequence * model.num_heads + head) * chunks + chunk) * (model.head_dim + kPartialHead);
}

// One KV head's chunk for all query heads of its group.
inline void decode_unit(const Model& model, const Op& op, const Step& step, int64_t sequence, int64_t kv_head,
                        int64_t chunk) {
  const int64_t row = step.row_starts[sequence], head_dim = model.head_dim;
  const int64_t group = model.num_heads / model.num_kv_heads, parts = ceil_div(group, kTileRows);
  const CacheHead cache(model, op, step.row_caches[row], kv_head);
  const Range attended = attended_slots(op, step.positions[row]);
  const int64_t first = chunk * kChunk, slots = std::min(kChunk, attended.end - first);
  // A member's next chunk is most often this head's next: its keys come in while these values are read.
  const float* next_keys = first + kChunk < attended.end ? cache.key_tile(first + kChunk) : nullptr;
  for (int64_t part = 0; part < parts; ++part) {
    alignas(64) float scores[kTileRows * kSlots];
    alignas(64) float out[kTileRows * kMaxHeadDim];
    const Range some = even_part(group, part, parts);
    const int64_t head = kv_head * group + some.begin;
    Softmax softmax;
    score(cache, op.source + (row * model.num_heads + head) * head_dim, head_dim, some.size(), first, slots, scores,
          cache.values + first * head_dim);
    const auto slope = [&](int64_t r) { return op.slopes ? op.slopes[head + r] : 0.0f; };
    softmax.absorb(model, scores, some.size(), first, slots, [&](int64_t) { return attended; }, slope);
    std::memset(out, 0, sizeof(float) * some.size() * head_dim);
    add_values(cache, scores, some.size(), first, slots, softmax.shrink, out, next_keys);
    for (int64_t r = 0; r < some.size(); ++r) {
      float* to = partial(model, op, sequence, head + r, chunk);
      to[0] = softmax.max[r];
      to[1] = softmax.sum[r];
      std::memcpy(to + kPartialHead, out + r * head_dim, sizeof(float) * head_dim);
    }
  }
}

// Joins the chunks of one query head of a decode sequence.
inline void merge(const Model& model, const Op& op, const Step& step, int64_t sequence, int64_t head) {
  const int64_t row = step.row_starts[sequence], head_dim = model.head_dim;
  const Range chunks = chunks_of(op, step.positions[row]);
  float max = -std::numeric_limits<float>::infinity();
  for (int64_t c = chunks.begin; c < chunks.end; ++c) max = std::fmax(max, partial(model, op, sequence, head, c)[0]);
  float sum = 0.0f;
  float* out = op.target + (row * model.num_heads + head) * head_dim;
  std::memset(out, 0, 4 * head_dim);
  for (int64_t c = chunks.begin; c < chunks.end; ++c) {
    const float* part = partial(model, op, sequence, head, c);
    const float weight = std::exp(part[0] - max);
    sum += weight * part[1];
    for (int64_t i = 0; i < head_dim; i += kGranule)
      store_granule(out + i, load_granule(out + i) + weight * load_granule(part + kPartialHead + i));
  }
  const float scale = 1.0f / sum;
  for (int64_t i = 0; i < head_dim; i += kGranule) store_granule(out + i, load_granule(out + i) * scale);
}

// A block of rows first .. first + count of one query head of a sequence.
inline void prefill_unit(const Model& model, const Op& op, const Step& step, int64_t head, int64_t first,
                         int64_t count) {
  alignas(64) float scores[kQueryRows * kSlots];
  alignas(64) float out[kQueryRows * kMaxHeadDim];
  Softmax softmax;
  const int64_t head_dim = model.head_dim, q_size = model.num_heads * head_dim;
  const CacheHead cache(model, op, step.row_caches[first], head / (model.num_heads / model.num_kv_heads));
  const auto attended = [&](int64_t r) { return attended_slots(op, step.positions[first + r]); };
  const auto slope = [&](int64_t) { return op.slopes ? op.slopes[head] : 0.0f; };
  std::memset(out, 0, sizeof(float) * count * head_dim);
  const int64_t begin = attended(0).begin / kPanel * kPanel, end = attended(count - 1).end;
  for (int64_t slot = begin; slot < end; slot += kSlots) {
    const int64_t slots = std::min(kSlots, end - slot);
    score(cache, op.source + first * q_size + head * head_dim, q_size, count, slot, slots, scores, nullptr);
    softmax.absorb(model, scores, count, slot, slots, attended, slope);
    add_values(cache, scores, count, slot, slots, softmax.shrink, out, nullptr);
  }
  for (int64_t r = 0; r < count; ++r) {
    float* to = op.target + (first + r) * q_size + head * head_dim;
    const float scale = 1.0f / softmax.sum[r];
    for (int64_t i = 0; i < head_dim; i += kGranule)
      store_granule(to + i, load_granule(out + r * head_dim + i) * scale);
  }
}

// Every sequence of the step has `units` items; calls work(sequence, unit) for item `item` of all.
template <class Units, class Work>
void locate(const Step& step, int64_t item, Units units, Work work) {
  for (int64_t b = 0; b < step.batch; ++b) {
    const int64_t count = units(b);
    if (item < count) return work(b, item);
    item -= count;
  }
}

template <class Units>
int64_t total_units(const Step& step, Units units) {
  int64_t total = 0;
  for (int64_t b = 0; b < step.batch; ++b) total += units(b);
  return total;
}

inline void attention(const Model& model, const Op& op, const Step& step, Member& member) {
  const auto rows_of = [&](int64_t b) { return step.row_starts[b + 1] - step.row_starts[b]; };
  const auto decodes = [&](int64_t b) { return rows_of(b) == 1; };
  const auto units = [&](int64_t b) {
    return decodes(b) ? model.num_kv_heads * chunks_of(op, step.positions[step.row_starts[b]]).size()
                      : model.num_heads * ceil_div(rows_of(b), kQueryRows);
  };
  member.for_each(total_units(step, units), [&](int64_t item) {
    locate(step, item, units, [&](int64_t b, int64_t unit) {
      const int64_t first = step.row_starts[b];
      if (decodes(b)) {
        const Range chunks = chunks_of(op, step.positions[first]);
        decode_unit(model, op, step, b, unit / chunks.size(), chunks.begin + unit % chunks.size());
      } else {
        const int64_t blocks = ceil_div(rows_of(b), kQueryRows);
        const Range rows = even_part(rows_of(b), unit / model.num_heads, blocks);
        prefill_unit(model, op, step, unit % model.num_heads, first + rows.begin, rows.size());
      }
    });
  });
  const auto heads = [&](int64_t b) { return decodes(b) ? model.num_heads : 0; };
  member.for_each(total_units(step, heads), [&](int64_t item) {
    locate(step, item, heads, [&](int64_t b, int64_t head) { merge(model, op, step, b, head); });
  });
}

}  // namespace eet
