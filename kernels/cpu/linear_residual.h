// linear_residual: residual += scale * (x W^T + b); or, where norm_add follows, target = scale * (x W^T + b).
//
// in:     x (rows, in_features) float32, W in panels (matmul.h), b (out_features,) or null.
// out:    target (rows, out_features) float32.
// items:  pairs of panels; each output has one writer.
// moves:  4 * in_features * out_features bytes of weights, rows * 4 * (in_features + 2 * out_features).
#pragma once

#include "matmul.h"
#include "program.h"

namespace eet {

inline void linear_residual(const Op& op, const Step& step, Member& member) {
  matmul(op, op.source, step.rows, member, [&](const Tile& tile) {
    const int64_t first = tile.first_panel * kPanel;
    const int64_t width = std::min<int64_t>(tile.panels * kPanel, op.out_features - first);
    for (int r = 0; r < tile.rows; ++r) {
      const float* sums = tile.row(r);
      float* out = op.target + (tile.first_row + r) * op.out_features + first;
      for (int64_t i = 0; i < width; i += kGranule) {
        Granule y = load_granule(sums + i);
        if (op.bias) y += load_granule(op.bias + first + i);
        y *= op.scale;
        store_granule(out + i, op.adds ? load_granule(out + i) + y : y);
      }
    }
  });
}

}  // namespace eet
