// norm_add: residual += scale * norm(x), for families that normalise a block's output.
//
// in:     x (rows, n) float32, n = out_features; residual (rows, n).
// out:    residual.
// items:  rows.
// scratch: rows * n floats.
// moves:  rows * 12 * n bytes.
#pragma once

#include "norm.h"
#include "program.h"

namespace eet {

inline void norm_add(const Op& op, const Step& step, Member& member) {
  const int64_t n = op.out_features;
  member.for_each(step.rows, [&](int64_t row) {
    float *normed = op.scratch + row * n, *out = op.target + row * n;
    norm_row(norm_of(op), op.source + row * n, normed, n);
    for (int64_t i = 0; i < n; i += kGranule)
      store_granule(out + i, load_granule(out + i) + op.scale * load_granule(normed + i));
  });
}

}  // namespace eet
