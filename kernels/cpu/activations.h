// Activations as integers, for products with quantised weights that no float multiplication slows down.
//
// A block of 32 values x becomes scale * n with n an integer in `pieces` signed bytes, most significant first:
//
//     pieces 1  n = p0, |n| <= 127: rounded to 8 bits, llama.cpp's Q8 (option quantised_activations)
//     pieces 3  n = p0 * 65536 + p1 * 256 + p2, |n| <= 127 * 65536: within 2^-23 of the block's largest magnitude,
//               about what a float32 of that size holds
//
// Sums of products of bytes are exact; rounding happens once a block, in float32, when they are scaled. A block that
// holds NaN or infinity gets a NaN scale, so that it stays visible.
#pragma once

#include <cmath>
#include <cstdint>
#include <limits>

#include "blocks.h"
#include "program.h"
#include "threads.h"

namespace eet {

template <int kPieces>
struct Activations {
  int8_t pieces[kPieces][kBlock];
  float scale, sum;            // sum: of the block's values, as rounded
  int32_t high_sum, low_sum;   // sums of n / 256 and of n % 256, or 0 and of n
};

constexpr int64_t activation_bytes(int pieces) {
  return pieces == 1 ? sizeof(Activations<1>) : sizeof(Activations<3>);
}

typedef int8_t LooseBytes __attribute__((vector_size(kLanes), aligned(1), may_alias));

inline void store_bytes(int8_t* to, IntVec values) {
  *reinterpret_cast<LooseBytes*>(to) = __builtin_convertvector(values, LooseBytes);
}

inline int32_t sum(IntVec x) {
  int32_t total = 0;
  for (int lane = 0; lane < kLanes; ++lane) total += x[lane];
  return total;
}

template <int kPieces>
void quantise_block(const float* x, Activations<kPieces>* out) {
  constexpr float kMost = kPieces == 1 ? 127.0f : 127.0f * 65536.0f;
  IntVec largest_bits{};  // of magnitudes; NaN is above infinity, infinity above numbers
  for (int i = 0; i < kBlock; i += kLanes) {
    const IntVec bits = bits_of(load(x + i)) & 0x7fffffff;
    largest_bits = bits > largest_bits ? bits : largest_bits;
  }
  int32_t most = 0;
  for (int lane = 0; lane < kLanes; ++lane) most = largest_bits[lane] > most ? largest_bits[lane] : most;
  float largest;
  std::memcpy(&largest, &most, 4);
  const bool finite = most < 0x7f800000;
  // Below that the scale would turn denormal and its inverse infinite; such values are nothing beside any weight.
  const bool some = finite && largest > 0x1p-100f;
  const float scale = some ? largest / kMost : 0.0f, inverse = some ? kMost / largest : 0.0f;
  IntVec high{}, low{};
  for (int i = 0; i < kBlock; i += kLanes) {
    const Vec scaled = some ? load(x + i) * inverse : Vec{};
    const IntVec n = __builtin_convertvector(scaled + copy_sign(splat(0.5f), scaled), IntVec);
    if (kPieces == 1) {
      store_bytes(out->pieces[0] + i, n);
      low += n;
      continue;
    }
    const IntVec last = ((n + 128) & 255) - 128, rest = (n - last) >> 8;
    const IntVec middle = ((rest + 128) & 255) - 128;
    store_bytes(out->pieces[0] + i, (rest - middle) >> 8);
    store_bytes(out->pieces[kPieces / 2] + i, middle);
    store_bytes(out->pieces[kPieces - 1] + i, last);
    high += rest;
    low += last;
  }
  out->scale = finite ? scale : std::numeric_limits<float>::quiet_NaN();
  out->high_sum = sum(high);
  out->low_sum = sum(low);
  out->sum = out->scale * (static_cast<float>(out->high_sum) * 256.0f + static_cast<float>(out->low_sum));
}

// Blocks first .. last of one row.
inline void quantise(const Op& op, const float* x, int64_t row, Range blocks) {
  const int64_t count = op.in_features / kBlock;
  uint8_t* to = op.activations + row * count * activation_bytes(op.pieces);
  for (int64_t block = blocks.begin; block < blocks.end; ++block) {
    const float* from = x + row * op.in_features + block * kBlock;
    if (op.pieces == 1)
      quantise_block(from, reinterpret_cast<Activations<1>*>(to) + block);
    else
      quantise_block(from, reinterpret_cast<Activations<3>*>(to) + block);
  }
}

// A phase: the op's input rows (rows, in_features) as integers, where its weight is quantised.
inline void quantise_rows(const Op& op, const float* x, int64_t rows, Member& member) {
  if (!blocked(op.format)) return;
  constexpr int64_t kItemBlocks = 16;
  const int64_t blocks = op.in_features / kBlock, parts = (blocks + kItemBlocks - 1) / kItemBlocks;
  member.for_each(rows * parts, [&](int64_t item) {
    quantise(op, x, item / parts, even_part(blocks, item % parts, parts));
  });
}

}  // namespace eet
