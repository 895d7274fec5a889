// sample: each wanted row's next token: argmax, or a draw over what temperature, top-k and top-p leave.
//
// Defined by eet_demo/engine/sampling.py. Candidates rank by logit / temperature, ties to the lower id; the draw is
// Gumbel-max, argmax(z + g), g = -log(-log(u)), u from Philox4x32-10 with counter (id, step, row, 0), key = seed.
//
// in:      logits (wanted, vocab_size) float32.
// out:     sampled (wanted,) int32; kNotFinite where the best logit is NaN or infinite.
// items:   kSlices ranges of ids, one row after the other. top-k and top-p need a ranking, but only of the best:
//          candidates are counted (and their probability summed) in bins of distance from the maximum; those in the
//          bins that are needed are collected in order of id, then sorted.
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

constexpr int kSlices = 16;
constexpr int kBins = 1024;
constexpr float kBinsPerUnit = 32.0f;  // of logit / temperature

struct Candidate {
  float value;
  int32_t id;

  // A NaN ranks before every number, as in NumPy's argmax: a broken model must show, and must not break the ranking.
  bool before(const Candidate& other) const {
    const bool nan = std::isnan(value), other_nan = std::isnan(other.value);
    if (nan != other_nan) return nan;
    return value > other.value || ((nan || value == other.value) && id < other.id);
  }
};

constexpr int32_t kNotFinite = -2;  // instead of a token, see sampling.py

constexpr Candidate kNoCandidate{-std::numeric_limits<float>::infinity(), std::numeric_limits<int32_t>::max()};

// What the slices of one row leave for each other.
struct Shared {
  Candidate best[kSlices];   // by logit
  Candidate drawn[kSlices];  // by value + noise
  double mass[kSlices][kBins];
  int32_t count[kSlices][kBins];
  int64_t offset[kSlices];  // where a slice's collected candidates start
  int64_t last_bin, collected;
  double total;             // mass of all candidates
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
  for (int i = 0; i < kLanes; ++i) u[i] = (static_cast<float>(words[i] >> 9) + 0.5f) * 0x1p-23f;
  const Vec exponential = u < 1.0f ? -log(u) : Vec{};
  return exponential > 0.0f ? -log(exponential) : splat(std::numeric_limits<float>::infinity());
}

inline Candidate best_logit(const float* logits, Range ids) {
  Candidate best = kNoCandidate;
  int64_t id = ids.begin;
  if (ids.size() >= kLanes) {
    Vec values = load(logits + id);
    IntVec ids_here = lane_index() + static_cast<int32_t>(id), winners = ids_here;
    for (id += kLanes; id + kLanes <= ids.end; id += kLanes) {
      const Vec x = load(logits + id);
      ids_here += kLanes;
      const IntVec better = ~(x <= values) & (values == values);  // higher, or the lane's first NaN
      values = better ? x : values;
      winners = better ? ids_here : winners;
    }
    for (int i = 0; i < kLanes; ++i) {
      const Candidate other{values[i], winners[i]};
      if (other.before(best)) best = other;
    }
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
    if (largest(values) < best.value) continue;  // most vectors
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
  double before = mass(0);
  int64_t kept = 1;
  for (; kept < count && before < step.top_p * total; ++kept) before += mass(kept);
  return kept;
}

// A row's ids and values: logit / temperature.
struct Row {
  const float* logits;
  float temperature;
  int64_t vocab_size;

  Candidate at(int64_t id) const { return {logits[id] / temperature, static_cast<int32_t>(id)}; }
  Range slice(int64_t index) const { return even_part(vocab_size, index, kSlices); }
};

inline Candidate winner(const Candidate* best) {
  Candidate first = best[0];
  for (int slice = 1; slice < kSlices; ++slice)
    if (best[slice].before(first)) first = best[slice];
  return first;
}

// The row's highest value: sixteen comparisons, for every item that needs it; outside an item it must not be read.
inline float highest_value(const Row& row, const Shared& shared) { return winner(shared.best).value / row.temperature; }

// The row's best logit is a number, so what was drawn is worth something.
inline bool finite(const Shared& shared, float temperature) {
  return std::isfinite(winner(shared.best).value / (temperature > 0.0f ? temperature : 1.0f));
}

// Counts the slice's candidates by distance from the row's highest value.
inline void fill_bins(const Row& row, const Step& step, int64_t slice, float highest, Shared* shared) {
  double* mass = shared->mass[slice];
  int32_t* count = shared->count[slice];
  std::fill(mass, mass + kBins, 0.0);
  std::fill(count, count + kBins, 0);
  const Range ids = row.slice(slice);
  for (int64_t id = ids.begin; id < ids.end; ++id) {
    const float value = row.at(id).value;
    const int bin = bin_of(value, highest);
    ++count[bin];
    if (step.top_k == 0) mass[bin] += std::exp(static_cast<double>(value - highest));
  }
}

// The last bin whose candidates can be among those kept, and where each slice's go.
inline void choose_bins(const Step& step, int64_t keep, Shared* shared) {
  shared->total = 0.0;
  for (int slice = 0; slice < kSlices; ++slice) {
    for (int bin = 0; bin < kBins; ++bin) shared->total += shared->mass[slice][bin];
    shared->offset[slice] = 0;
  }
  double mass = 0.0;
  shared->collected = 0;
  for (shared->last_bin = 0; shared->last_bin < kBins; ++shared->last_bin) {
    for (int slice = 0; slice < kSlices; ++slice) {
      const int32_t count = shared->count[slice][shared->last_bin];
      shared->collected += count;
      mass += shared->mass[slice][shared->last_bin];
      for (int later = slice + 1; later < kSlices; ++later) shared->offset[later] += count;
    }
    if (step.top_k > 0 ? shared->collected >= keep : mass >= step.top_p * shared->total) break;
  }
}

// One row under top-k or top-p.
inline void draw_ranked(const Row& row, const Step& step, int64_t index, Member& member, Shared* shared,
                        Candidate* list) {
  const int64_t keep = step.top_k > 0 ? std::min<int64_t>(step.top_k, row.vocab_size) : row.vocab_size;
  member.for_each(kSlices, [&](int64_t slice) { shared->best[slice] = best_logit(row.logits, row.slice(slice)); });
  member.for_each(kSlices, [&](int64_t slice) {
    const float highest = highest_value(row, *shared);
    fill_bins(row, step, slice, highest, shared);
  });
  member.for_each(1, [&](int64_t) { choose_bins(step, keep, shared); });
  member.for_each(kSlices, [&](int64_t slice) {
    const float highest = highest_value(row, *shared);
    Candidate* to = list + shared->offset[slice];
    const Range ids = row.slice(slice);
    for (int64_t id = ids.begin; id < ids.end; ++id)
      if (bin_of(row.at(id).value, highest) <= shared->last_bin) *to++ = row.at(id);
  });
  member.for_each(1, [&](int64_t) {
    const int64_t count = cut(list, shared->collected, keep, step, shared->total);
    const Candidate drawn = best_draw(count, step, index, [&](int64_t i) { return list[i]; });
    step.sampled[index] = finite(*shared, step.temperature) ? drawn.id : kNotFinite;
  });
}

inline void sample(const Op& op, const Step& step, Member& member) {
  auto* shared = reinterpret_cast<Shared*>(op.scratch);
  auto* list = reinterpret_cast<Candidate*>(shared + 1);
  for (int64_t index = 0; index < step.wanted; ++index) {
    const Row row{op.source + index * op.out_features, step.temperature, op.out_features};
    if (step.temperature > 0.0f && (step.top_k > 0 || step.top_p < 1.0)) {
      draw_ranked(row, step, index, member, shared, list);
      continue;
    }
    member.for_each(kSlices, [&](int64_t slice) {
      const Range ids = row.slice(slice);
      shared->best[slice] = best_logit(row.logits, ids);
      if (step.temperature > 0.0f)
        shared->drawn[slice] = best_draw(ids.size(), step, index, [&](int64_t i) { return row.at(ids.begin + i); });
    });
    member.for_each(1, [&](int64_t) {
      const Candidate chosen = winner(step.temperature > 0.0f ? shared->drawn : shared->best);
      step.sampled[index] = finite(*shared, step.temperature) ? chosen.id : kNotFinite;
    });
  }
}

}  // namespace eet
