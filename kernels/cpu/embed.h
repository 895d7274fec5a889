// embed: residual[row] = tokens[id] * scale (+ positions[position]), normalised where the op has a norm.
//
// in:     token ids, positions (rows,) int32; tokens in panels (the head's own copy when tied, see matmul.h and
//         blocks.h);
//         positions (max_positions, hidden) float32 row-major.
// out:    residual (rows, hidden) float32.
// items:  rows.
// moves:  64 bytes an element of a row: a token's weights lie 64 bytes apart in its panel (quantised, four at a time).
#pragma once

#include "matmul.h"
#include "norm.h"
#include "program.h"

namespace eet {

inline void embed(const Model& model, const Op& op, const Step& step, Member& member) {
  const int64_t hidden = model.hidden_size;
  member.for_each(step.rows, [&](int64_t row) {
    const int64_t id = step.token_ids[row];
    const uint8_t* panel = op.weight + id / kPanel * panel_bytes(op.format, hidden);
    const float* position = op.positions ? op.positions + step.positions[row] * hidden : nullptr;
    float* out = op.target + row * hidden;
    if (op.format == kFloat32) {
      const float* token = reinterpret_cast<const float*>(panel) + id % kPanel;
      for (int64_t k = 0; k < hidden; ++k) out[k] = token[k * kPanel];
    } else if (!blocked(op.format)) {
      const uint8_t* token = panel + 2 * (id % kPanel);
      for (int64_t k = 0; k < hidden; ++k) out[k] = widen(op.format, token + 2 * kPanel * k);
    } else {
      dequantise_row(op.format, panel, id % kPanel, hidden, out);
    }
    for (int64_t k = 0; k < hidden; ++k) {
      const float value = out[k] * op.scale;
      out[k] = position ? value + position[k] : value;
    }
    if (op.norm_weight) norm_row(norm_of(op), out, out, hidden);
  });
}

}  // namespace eet
