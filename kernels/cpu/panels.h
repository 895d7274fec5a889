// Rows of a checkpoint's matrix to their places among the panels of matmul.h.
#pragma once

#include <algorithm>
#include <cstdint>

#include "matmul.h"

namespace eet {

// rows (count, depth) row-major; row r becomes row destinations[r] of the panels, lane destination % 16 of its panel.
// Sixteen rows at a time, a few columns of each, so that the panel's lines stay in the first-level cache.
template <class Weight>
void fill_panels(const Weight* rows, int64_t count, int64_t depth, const int32_t* destinations, Weight* panels) {
  constexpr int64_t kColumns = 64;
  for (int64_t first = 0; first < count; first += kPanel) {
    const int64_t last = std::min(count, first + kPanel);
    for (int64_t column = 0; column < depth; column += kColumns) {
      const int64_t width = std::min(kColumns, depth - column);
      for (int64_t row = first; row < last; ++row) {
        const int64_t to = destinations[row];
        const Weight* from = rows + row * depth + column;
        Weight* lane = panels + (to / kPanel * depth + column) * kPanel + to % kPanel;
        for (int64_t k = 0; k < width; ++k) lane[k * kPanel] = from[k];
      }
    }
  }
}

}  // namespace eet
