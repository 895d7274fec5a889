// The lowered program: what Python hands over once (Model, Op) and with every step (Step).
//
// eet_demo/engine/executors/cpu/records.py mirrors these structs field by field; it compares sizes and offsets with
// eet_record_layout() when the library is loaded. Pointers go into the engine's arena unless said otherwise.
#pragma once

#include <cstdint>

namespace eet {

enum Stem : int32_t { kEmbed, kNormQkv, kAttention, kLinearResidual, kNormAdd, kNormMlp, kNormLmHead, kSample };
enum NormKind : int32_t { kLayerNorm, kRmsNorm };
enum QkNorm : int32_t { kNone, kHead, kHeads, kFull };  // see norm_qkv.h
enum Activation : int32_t { kGeluTanh, kGeluErf, kSilu, kRelu };
enum Format : int32_t { kFloat32, kFloat16, kBfloat16, kQ80, kQ40, kQ41 };

// What all ops share.
struct Model {
  int32_t vocab_size, hidden_size, num_heads, num_kv_heads, head_dim;
  int32_t rotary_dim;        // leading elements of a head that turn; pairs lie side by side (the loader sees to that)
  int32_t max_batch, max_context;
  float attention_scale, attention_soft_cap;  // a cap of 0 is none
};

// One op; fields that its stem does not use are 0.
struct Op {
  int32_t stem;
  int32_t norm_kind;
  int32_t activation, gated;
  int32_t qk_norm;
  int32_t adds;              // a projection adds to its target, and does not overwrite it
  int32_t window;            // slots a row attends to, itself included; 0 is all
  int32_t in_features, out_features;
  int32_t format;            // of the weight
  int32_t pieces;            // int8 numbers an activation becomes where the weight is quantised, see activations.h
  float norm_eps, scale, soft_cap;
  const float *norm_weight, *norm_bias;  // (in_features,); no weight, no norm
  const float *q_norm, *k_norm;          // in the panels' order of rows
  const float* frequencies;  // (rotary_dim / 2,) radians a position, null where nothing turns; Python's own memory
  const float* slopes;       // (num_heads,) of ALiBi, or null; Python's own memory
  const uint8_t* weight;     // panels, see matmul.h and blocks.h
  const float* bias;         // in the panels' order of rows, padded as they are
  const float* positions;    // (max_positions, hidden_size) learned positions, row-major
  const float* source;
  float* target;
  float* scratch;
  uint8_t* activations;      // (rows, in_features / 32) blocks, where the weight is quantised, see activations.h
  float* cache;              // this layer's keys (max_batch, num_kv_heads, ...), its values behind them
  const Op* next_projection; // the next op with a weight, null at the end; filled in by the engine
};

// One pass; arrays belong to Python and outlive the call.
struct Step {
  int32_t rows, batch, wanted;
  int32_t top_k;
  float temperature;            // 0 is greedy
  double top_p;
  uint64_t seed;
  const int32_t* token_ids;     // (rows,)
  const int32_t* positions;     // (rows,) also the row's cache slot
  const int32_t* row_caches;    // (rows,) the row's row of the KV cache
  const int32_t* row_starts;    // (batch + 1,)
  const int32_t* wanted_rows;   // (wanted,)
  const int32_t* sample_rows;   // (wanted,)
  const int32_t* sample_steps;  // (wanted,)
  int32_t* sampled;             // (wanted,) out
};

}  // namespace eet
