// sample: each wanted row's next token: argmax, or a draw over what temperature, top-k and top-p leave.
//
// Defined by eet_demo/engine/sampling.py. Candidates rank by logit / temperature, ties to the lower id; the draw is
// Gumbel-max, argmax(z + g), g = -log(-log(u)), u from Philox4x32-10 with counter (id, step, row, 0), key = seed.
//
// in:      logits (wanted, vocab_size) float32.
// out:     sampled (wanted,) int32.
// split:   ids over threads, all on one row at a time. top-k and top-p need a ranking, but only of the best: candidates
//          are counted (and their probability summed) in bins of distance from the maximum; those in the bins that are
//          needed are collected in order of id, then sorted.
// scratch: Shared, then vocab_size candidates.
// source:  Salmon et al., "Parallel random numbers: as easy as 1, 2, 3" (SC 2011).
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>

#include "program.h"
#include "threads.h"
#include "vector.h"

namespace eet {

constexpr int kMaxMembers = 64;
constexpr int kBins = 2048;
constexpr float kBinsPerUnit = 64.0f;  // of logit / temperature

struct Candidate {
  float value;
  int32_t id;

  bool before(const Candidate& other) const { return value > other.value || (value == other.value && id < other.id); }
};

constexpr Candidate kNoCandidate{-std::numeric_limits<float>::infinity(), std::numeric_limits<int32_t>::max()};

struct Bins {
  int32_t count[kBins] = {};
  double mass[kBins] = {};
};

// What members show each other; `best` alternates between rows so that a member ahead overwrites nothing.
struct Shared {
  Candidate best[2][kMaxMembers];
  float highest[kMaxMembers];
  const Bins* bins[kMaxMembers];
};

// First output words of Philox4x32-10 for kLanes counters.
inline void philox(const int32_t* ids, uint32_t step, uint32_t row, uint64_t seed, uint32_t* words) {
  uint32_t c0[kLanes], c1[kLanes], c2[kLanes], c3[kLanes];
  for (int i = 0; i < kLanes; ++i) {
    c0[i] = static_cast<uint32_t>(ids[i]);
    c1[i] = step;
    c2[i] = row;
    c3[i] = 0;
  }
  uint32_t k0 = static_cast<uint32_t>(seed), k1 = static_cast<uint32_t>(seed >> 32);
  for (int round = 0; round < 10; ++round) {
    for (int i = 0; i < kLanes; ++i) {
      const uint64_t p0 = 0xD2511F53ull * c0[i], p1 = 0xCD9E8D57ull * c2[i];
      c0[i] = static_cast<uint32_t>(p1 >> 32) ^ c1[i] ^ k0;
      c1[i] = static_cast<uint32_t>(p1);
      c2[i] = static_cast<uint32_t>(p0 >> 32) ^ c3[i] ^ k1;
      c3[i] = static_cast<uint32_t>(p0);
    }
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  std::memcpy(words, c0, sizeof c0);
}

// Gumbel noise of kLanes ids; infinite where u rounds to 1.
inline Vec gumbel(const int32_t* ids, const Step& step, int64_t index) {
  uint32_t words[kLanes];
  philox(ids, step.sample_steps[index], step.sample_rows[index], step.seed, words);
  Vec u;
  for (int i = 0; i < kLanes; ++i) u[i] = (static_cast<float>(words[i] >> 8) + 0.5f) * 0x1p-24f;
  const Vec exponential = u < 1.0f ? -log(u) : Vec{};
  return exponential > 0.0f ? -log(exponential) : splat(std::numeric_limits<float>::infinity());
}

inline Candidate best_logit(const float* logits, Range ids) {
  Candidate best = kNoCandidate;
  int64_t id = ids.begin;
  Vec values = splat(best.value);
  IntVec winners = IntVec{} + best.id, lane;
  for (int i = 0; i < kLanes; ++i) lane[i] = i;
  for (; id + kLanes <= ids.end; id += kLanes) {
    const Vec x = load(logits + id);
    const IntVec better = x > values;
    values = better ? x : values;
    winners = better ? lane + static_cast<int32_t>(id) : winners;
  }
  for (int i = 0; i < kLanes; ++i) {
    const Candidate other{values[i], winners[i]};
    if (other.before(best)) best = other;
  }
  for (; id < ids.end; ++id) {
    const Candidate other{logits[id], static_cast<int32_t>(id)};
    if (other.before(best)) best = other;
  }
  return best;
}

// The winner of value + noise among `count` candidates, kLanes at a time; candidate(i) yields the i-th.
template <class At>
Candidate best_draw(int64_t count, const Step& step, int64_t index, At candidate) {
  Candidate best = kNoCandidate;
  for (int64_t first = 0; first < count; first += kLanes) {
    const int some = static_cast<int>(std::min<int64_t>(kLanes, count - first));
    int32_t ids[kLanes] = {};
    Vec values{};
    for (int i = 0; i < some; ++i) {
      const Candidate one = candidate(first + i);
      ids[i] = one.id;
      values[i] = one.value;
    }
    values += gumbel(ids, step, index);
    for (int i = 0; i < some; ++i) {
      const Candidate other{values[i], ids[i]};
      if (other.before(best)) best = other;
    }
  }
  return best;
}

inline int bin_of(float value, float highest) {
  const float distance = (highest - value) * kBinsPerUnit;
  return distance < kBins - 1 ? static_cast<int>(distance) : kBins - 1;
}

// The first `keep` of the list by rank, and of these the fewest whose mass reaches top_p of `total` (their own if 0).
inline int64_t cut(Candidate* list, int64_t count, int64_t keep, const Step& step, double total) {
  std::sort(list, list + count, [](const Candidate& a, const Candidate& b) { return a.before(b); });
  count = std::min(count, keep);
  if (step.top_p >= 1.0f) return count;
  const auto mass = [&](int64_t i) { return std::exp(static_cast<double>(list[i].value - list[0].value)); };
  if (total == 0.0)
    for (int64_t i = 0; i < count; ++i) total += mass(i);
  double before = 0.0;
  int64_t kept = 0;
  for (; kept < count && before < step.top_p * total; ++kept) before += mass(kept);
  return kept;
}

// One row under top-k or top-p; the token on member 0, unused elsewhere.
inline int32_t draw_ranked(const Op& op, const Step& step, const float* logits, int64_t index, const Member& member,
                           Shared* shared, Candidate* list) {
  const Range mine = member.share(op.out_features);
  const auto at = [&](int64_t id) { return Candidate{logits[id] / step.temperature, static_cast<int32_t>(id)}; };
  shared->highest[member.index] = best_logit(logits, mine).value / step.temperature;
  member.barrier->wait();
  const float highest = *std::max_element(shared->highest, shared->highest + member.count);
  const int64_t keep = step.top_k > 0 ? std::min(step.top_k, op.out_features) : op.out_features;
  Bins bins;
  for (int64_t id = mine.begin; id < mine.end; ++id) {
    const float value = at(id).value;
    const int bin = bin_of(value, highest);
    ++bins.count[bin];
    if (step.top_k == 0) bins.mass[bin] += std::exp(static_cast<double>(value - highest));
  }
  shared->bins[member.index] = &bins;
  member.barrier->wait();
  double total = 0.0;
  for (int m = 0; m < member.count; ++m)
    for (int bin = 0; bin < kBins; ++bin) total += shared->bins[m]->mass[bin];
  int last = 0;
  int64_t count = 0, offset = 0;
  double mass = 0.0;
  for (; last < kBins; ++last) {
    for (int m = 0; m < member.count; ++m) {
      count += shared->bins[m]->count[last];
      mass += shared->bins[m]->mass[last];
      if (m < member.index) offset += shared->bins[m]->count[last];
    }
    if (step.top_k > 0 ? count >= keep : mass >= step.top_p * total) break;
  }
  for (int64_t id = mine.begin; id < mine.end; ++id)
    if (bin_of(at(id).value, highest) <= last) list[offset++] = at(id);
  member.barrier->wait();
  if (member.index != 0) return 0;
  count = cut(list, count, keep, step, total);
  return best_draw(count, step, index, [&](int64_t i) { return list[i]; }).id;
}

inline void sample(const Op& op, const Step& step, const Member& member) {
  auto* shared = reinterpret_cast<Shared*>(op.scratch);
  auto* list = reinterpret_cast<Candidate*>(shared + 1);
  const Range mine = member.share(op.out_features);
  for (int64_t index = 0; index < step.wanted; ++index) {
    const float* logits = op.source + index * op.out_features;
    if (step.temperature > 0.0f && (step.top_k > 0 || step.top_p < 1.0f)) {
      const int32_t token = draw_ranked(op, step, logits, index, member, shared, list);
      if (member.index == 0) step.sampled[index] = token;
      continue;
    }
    Candidate* best = shared->best[index % 2];
    best[member.index] = step.temperature == 0.0f
                             ? best_logit(logits, mine)
                             : best_draw(mine.end - mine.begin, step, index, [&](int64_t i) {
                                 const int64_t id = mine.begin + i;
                                 return Candidate{logits[id] / step.temperature, static_cast<int32_t>(id)};
                               });
    member.barrier->wait();
    if (member.index != 0) continue;
    Candidate winner = kNoCandidate;
    for (int m = 0; m < member.count; ++m)
      if (best[m].before(winner)) winner = best[m];
    step.sampled[index] = winner.id;
  }
}

}  // namespace eet
