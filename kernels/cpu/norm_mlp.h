// norm_mlp: hidden = act(gate) * up, or act(up), of norm(residual) W^T + b.
//
// in:     residual (rows, hidden_size) float32; W in panels (matmul.h), gated: a panel of 16 gate rows, then the panel
//         of the same 16 up rows, so both factors of an output meet in one tile.
// out:    hidden (rows, intermediate_size) float32.
// items:  rows of the norm, then pairs of panels.
// moves:  4 * hidden_size * rows of W bytes of weights, rows * 4 * (hidden_size + intermediate_size).
#pragma once

#include "matmul.h"
#include "norm.h"
#include "program.h"

namespace eet {

inline Vec activate(Vec x, int32_t activation) {
  switch (activation) {
    case kSilu:
      return x * sigmoid(x);
    case kRelu:
      return x < 0.0f ? Vec{} : x;
    case kGeluErf:
      return 0.5f * x * (1.0f + erf(x * 0.70710678118654752440f));
    default:  // kGeluTanh: (1 + tanh(u)) / 2 = 1 / (1 + e^-2u)
      return x * sigmoid(1.59576912160573071176f * (x + 0.044715f * x * x * x));
  }
}

inline void norm_mlp(const Op& op, const Step& step, Member& member) {
  const float* x = norm_rows(op, step.rows, nullptr, member, [](int64_t) {});
  const int64_t outputs = op.gated ? op.out_features / 2 : op.out_features;
  const int64_t factors = op.gated ? 2 : 1;  // panels that make one panel of outputs
  matmul(op, x, step.rows, member, [&](const Tile& tile) {
    const int64_t first = tile.first_panel / factors * kPanel;
    const int64_t computed = tile.panels / factors * kPanel;
    const int64_t width = std::min<int64_t>(computed, outputs - first);
    for (int r = 0; r < tile.rows; ++r) {
      float* sums = tile.row(r);
      const float* bias = op.bias ? op.bias + tile.first_panel * kPanel : nullptr;
      for (int64_t i = 0; i < computed; i += kLanes) {
        Vec y = load(sums + i);
        if (bias) y += load(bias + i);
        y = activate(y, op.activation);
        if (op.gated) {
          const Vec up = load(sums + kPanel + i);
          y *= bias ? up + load(bias + kPanel + i) : up;
        }
        store(sums + i, y);
      }
      std::memcpy(op.target + (tile.first_row + r) * outputs + first, sums, 4 * width);
    }
  });
}

}  // namespace eet
