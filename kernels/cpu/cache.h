// Where keys and values lie in the KV cache, float32 (2, max_batch, num_kv_heads, max_context, head_dim) a layer.
//
// A head's values are rows, (max_context, head_dim). Its keys are tiles of 16 slots, [tile][head_dim][16 slots], so
// that one vector holds a key element of 16 slots: q k^T is then the same microkernel as a projection (a tile is a
// panel whose depth is head_dim), with no sums across lanes. The last tile is as narrow as the slots left, so the bytes
// stay exact; reading it as a whole panel runs at most 15 floats into what lies behind it in the cache, which nobody
// writes meanwhile, and those lanes belong to slots no row attends to.
#pragma once

#include "matmul.h"
#include "program.h"

namespace eet {

struct CacheHead {
  float* keys;
  float* values;
  int64_t max_context, head_dim;

  CacheHead(const Model& model, const Op& op, int64_t cache_row, int64_t kv_head)
      : max_context(model.max_context), head_dim(model.head_dim) {
    const int64_t size = max_context * head_dim;
    keys = op.cache + (cache_row * model.num_kv_heads + kv_head) * size;
    values = keys + size * model.max_batch * model.num_kv_heads;
  }

  // Slots of the tile that starts at `slot`, a multiple of 16: the stride between its key elements.
  int64_t tile_width(int64_t slot) const { return std::min<int64_t>(kPanel, max_context - slot); }

  float* key_tile(int64_t slot) const { return keys + slot * head_dim; }
};

}  // namespace eet
