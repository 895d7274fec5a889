// norm_lm_head: logits = soft_cap(scale * (norm(residual[wanted]) W^T + b)).
//
// in:     residual (rows, hidden) float32, wanted rows (wanted,) int32, W in panels (matmul.h; tied, the embedding).
// out:    logits (wanted, vocab_size) float32.
// items:  wanted rows of the norm, then pairs of panels.
// moves:  4 * vocab_size * hidden bytes of weights, wanted * 4 * (hidden + vocab_size).
#pragma once

#include "matmul.h"
#include "norm.h"
#include "program.h"

namespace eet {

inline void norm_lm_head(const Op& op, const Step& step, Member& member) {
  const float* x = norm_rows(op, step.wanted, step.wanted_rows, member, [](int64_t) {});
  matmul(op, x, step.wanted, member, [&](const Tile& tile) {
    const int64_t first = tile.first_panel * kPanel;
    const int64_t computed = tile.panels * kPanel;
    const int64_t width = std::min<int64_t>(computed, op.out_features - first);
    for (int r = 0; r < tile.rows; ++r) {
      float* sums = tile.row(r);
      for (int64_t i = 0; i < computed; i += kLanes) {
        Vec y = load(sums + i);
        if (op.bias) y += load(op.bias + first + i);
        y *= op.scale;
        store(sums + i, op.soft_cap > 0.0f ? op.soft_cap * tanh(y / op.soft_cap) : y);
      }
      std::memcpy(op.target + (tile.first_row + r) * op.out_features + first, sums, 4 * width);
    }
  });
}

}  // namespace eet
