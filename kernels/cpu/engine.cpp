// The CPU executor's library: a team of threads that walks a lowered program, one call a step.
//
// Every member walks every op, phase by phase (threads.h): it takes items, its own share first, and goes on as soon as
// the phase's items are done, whoever did them. There is no barrier: while one member works on an op, another may be on
// its way through an earlier one, where it finds nothing left to do. Nothing is allocated inside a step: the arena,
// planned to the byte, is Python's.
#include <cstddef>
#include <cstring>
#include <numeric>
#include <vector>

#include "attention.h"
#include "embed.h"
#include "linear_residual.h"
#include "norm_add.h"
#include "norm_lm_head.h"
#include "norm_mlp.h"
#include "norm_qkv.h"
#include "panels.h"
#include "program.h"
#include "sample.h"
#include "threads.h"

namespace eet {

struct Engine {
  Model model;
  std::vector<Op> ops;
  Team team;

  Engine(const Model& shared, const Op* first, int count, int threads)
      : model(shared), ops(first, first + count), team(threads) {
    const Op* next = nullptr;
    for (auto op = ops.rbegin(); op != ops.rend(); ++op) {
      op->next_projection = next;
      if (op->in_features > 0) next = &*op;
    }
  }
};

inline void run_op(const Model& model, const Op& op, const Step& step, Member& member) {
  switch (op.stem) {
    case kEmbed:
      return embed(model, op, step, member);
    case kNormQkv:
      return norm_qkv(model, op, step, member);
    case kAttention:
      return attention(model, op, step, member);
    case kLinearResidual:
      return linear_residual(op, step, member);
    case kNormAdd:
      return norm_add(op, step, member);
    case kNormMlp:
      return norm_mlp(op, step, member);
    case kNormLmHead:
      return norm_lm_head(op, step, member);
    case kSample:
      return sample(op, step, member);
  }
}

}  // namespace eet

// The rest is hidden: two builds in one process must not share the tables of their templates.
#pragma GCC visibility push(default)
extern "C" {

// An engine with `threads` members, the caller's included; null when no thread can be started.
eet::Engine* eet_create(const eet::Model* model, const eet::Op* ops, int count, int threads) {
  try {
    return new eet::Engine(*model, ops, count, threads);
  } catch (...) {
    return nullptr;
  }
}

void eet_destroy(eet::Engine* engine) { delete engine; }

// Runs ops first .. last of the program.
void eet_run(eet::Engine* engine, const eet::Step* step, int first, int last) {
  engine->team.run([&](eet::Member& member) {
    for (int i = first; i < last; ++i) eet::run_op(engine->model, engine->ops[i], *step, member);
  });
}

#ifdef EET_STRESS
// Chooses which members are late where, from the next step on (stress.h).
void eet_stress(eet::Engine* engine, uint64_t seed) { engine->team.stress(seed); }
#endif

// Writes `count` rows (count, depth) of a matrix of `width`-byte floats to their places `destinations` in the panels.
void eet_fill_panels(int width, const void* rows, int64_t count, int64_t depth, const int32_t* destinations,
                     void* panels) {
  if (width == 2)
    eet::fill_panels(static_cast<const uint16_t*>(rows), count, depth, destinations, static_cast<uint16_t*>(panels));
  else
    eet::fill_panels(static_cast<const float*>(rows), count, depth, destinations, static_cast<float*>(panels));
}

// The same for `count` rows of GGUF blocks.
void eet_fill_block_panels(int format, const uint8_t* raw, int64_t count, int64_t depth, const int32_t* destinations,
                           uint8_t* panels) {
  eet::fill_block_panels(format, raw, count, depth, destinations, panels);
}

// Faults in `bytes` bytes of fresh memory, a share each, so that no step pays for it.
void eet_touch(eet::Engine* engine, volatile char* memory, int64_t bytes) {
  constexpr int64_t kPage = 4096, kBlock = 2 << 20;
  engine->team.run([&](eet::Member& member) {
    member.for_each(eet::ceil_div(bytes, kBlock), [&](int64_t block) {
      const int64_t end = std::min(bytes, (block + 1) * kBlock);
      for (int64_t byte = block * kBlock; byte < end; byte += kPage) memory[byte] = 0;
    });
  });
}

// Reads `bytes` bytes the way a decode step reads its weights: each member its share, two streams at a time. Returns a
// parity of what was read, so that no read is dropped.
int eet_read(eet::Engine* engine, const uint8_t* data, int64_t bytes) {
  constexpr int64_t kHalf = 32 << 10, kItem = 2 * kHalf, kStep = sizeof(eet::IntVec);
  std::vector<int32_t> sums(bytes / kItem);
  engine->team.run([&](eet::Member& member) {
    member.for_each(static_cast<int64_t>(sums.size()), [&](int64_t item) {
      eet::IntVec first{}, second{};
      const uint8_t* from = data + item * kItem;
#pragma GCC unroll 8
      for (int64_t at = 0; at < kHalf; at += kStep) {
        first ^= *reinterpret_cast<const eet::LooseIntVec*>(from + at);
        second ^= *reinterpret_cast<const eet::LooseIntVec*>(from + kHalf + at);
      }
      first ^= second;
      for (int lane = 0; lane < eet::kLanes; ++lane) sums[item] ^= first[lane];
    });
  });
  return std::accumulate(sums.begin(), sums.end(), 0, [](int a, int b) { return a ^ b; });
}

// Sizes and field offsets of Model, Op and Step, in declaration order, for Python's mirror; returns how many there are.
int eet_record_layout(int32_t* out) {
  using namespace eet;
#define EET_FIELD(Record, field) static_cast<int32_t>(offsetof(Record, field))
  const int32_t layout[] = {
      sizeof(Model), EET_FIELD(Model, head_dim), EET_FIELD(Model, attention_soft_cap),
      sizeof(Op), EET_FIELD(Op, out_features), EET_FIELD(Op, pieces), EET_FIELD(Op, soft_cap), EET_FIELD(Op, slopes),
      EET_FIELD(Op, positions), EET_FIELD(Op, activations), EET_FIELD(Op, next_projection),
      sizeof(Step), EET_FIELD(Step, top_p), EET_FIELD(Step, seed), EET_FIELD(Step, row_caches),
      EET_FIELD(Step, sampled)};
#undef EET_FIELD
  if (out) std::memcpy(out, layout, sizeof layout);
  return sizeof layout / sizeof layout[0];
}
}
#pragma GCC visibility pop
