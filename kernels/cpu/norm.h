// LayerNorm and RMSNorm of rows: LayerNorm (x - mean) / sqrt(var + eps) * weight + bias, RMSNorm x / sqrt(mean(x^2) +
// eps) * weight; sums run over vector lanes, so their rounding error grows with n / lanes.
//
// in: x (n,) float32; n a multiple of 8. out: (n,), which may be x.
#pragma once

#include <cmath>
#include <cstdint>

#include "program.h"
#include "threads.h"
#include "vector.h"

namespace eet {

struct Norm {
  int32_t kind;
  float eps;
  const float *weight, *bias;  // (n,), the bias may be null
};

inline Norm norm_of(const Op& op) { return {op.norm_kind, op.norm_eps, op.norm_weight, op.norm_bias}; }

inline void norm_row(const Norm& norm, const float* x, float* out, int64_t n) {
  const int64_t whole = n / kLanes * kLanes;
  float mean = 0.0f;
  if (norm.kind == kLayerNorm) {
    Vec total{};
    for (int64_t i = 0; i < whole; i += kLanes) total += load(x + i);
    mean = sum(total);
    for (int64_t i = whole; i < n; ++i) mean += x[i];
    mean /= static_cast<float>(n);
  }
  Vec squares{};
  for (int64_t i = 0; i < whole; i += kLanes) {
    const Vec centred = load(x + i) - mean;
    squares += centred * centred;
  }
  float variance = sum(squares);
  for (int64_t i = whole; i < n; ++i) variance += (x[i] - mean) * (x[i] - mean);
  const float scale = 1.0f / std::sqrt(variance / static_cast<float>(n) + norm.eps);
  for (int64_t i = 0; i < whole; i += kLanes) {
    const Vec scaled = (load(x + i) - mean) * scale * load(norm.weight + i);
    store(out + i, norm.bias ? scaled + load(norm.bias + i) : scaled);
  }
  for (int64_t i = whole; i < n; ++i) {
    const float scaled = (x[i] - mean) * scale * norm.weight[i];
    out[i] = norm.bias ? scaled + norm.bias[i] : scaled;
  }
}

// A phase: the op's normalised input rows, into op.scratch, an item each. `rows` picks source rows, or is null for all
// in order. `also` does what else an op has to do for a row. Without a norm the rows are the source's own.
template <class Also>
const float* norm_rows(const Op& op, int64_t count, const int32_t* rows, Member& member, Also also) {
  const int64_t n = op.in_features;
  member.for_each(count, [&](int64_t row) {
    if (op.norm_weight) norm_row(norm_of(op), op.source + (rows ? rows[row] : row) * n, op.scratch + row * n, n);
    also(row);
  });
  return op.norm_weight ? op.scratch : op.source;
}

}  // namespace eet
