// Stress mode of the team, in builds with -DEET_STRESS: members fall behind between phases, again and again, so that
// what a late member must not touch (threads.h) is touched late, and ThreadSanitizer sees it. Other builds have nothing
// of it.
//
// Lateness is counted in phases that the others finish, not in time: what a run finds does not hang on the machine's
// load. A late member holds no item, one member is always awake, and when that one has left the late ones go on.
// Nothing here orders memory: the sanitizer would take it for the order that a fault lacks.
#pragma once

#include <sched.h>

#include <atomic>
#include <cstdint>
#include <limits>

namespace eet {

enum class Moment : uint64_t { kBeforeTaking, kAfterFinishing, kBeforeLeaving };

#ifdef EET_STRESS

class Stress {
 public:
  explicit Stress(const std::atomic<uint32_t>& phase) : phase_(phase) {}

  void seed(uint64_t seed) { seed_ = seed; }

  // A step of `members` members begins.
  void begin(int members) {
    ++steps_;
    awake_.store(members, std::memory_order_relaxed);
  }

  // Member `index` may fall behind here, in its phase `phase`.
  void pass(int index, uint32_t phase, Moment moment) {
    const uint64_t random = draw(index, phase, moment);
    if (random % kOneIn == 0) fall_behind(phase + 2 + random / kOneIn % kMostBehind);
  }

  // Member `index` is through with the step; it may be the last to leave.
  void leave(int index) {
    if (draw(index, 0, Moment::kBeforeLeaving) % kOneIn == 0) fall_behind(std::numeric_limits<uint64_t>::max());
    awake_.fetch_sub(1, std::memory_order_relaxed);
  }

 private:
  static constexpr uint64_t kOneIn = 4;
  static constexpr uint64_t kMostBehind = 16;  // phases: a layer, and what comes after it

  // SplitMix64: Steele, Lea and Flood, "Fast splittable pseudorandom number generators" (OOPSLA 2014).
  static uint64_t mixed(uint64_t x) {
    x += 0x9E3779B97F4A7C15ull;
    x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9ull;
    x = (x ^ x >> 27) * 0x94D049BB133111EBull;
    return x ^ x >> 31;
  }

  uint64_t draw(int index, uint32_t phase, Moment moment) const {
    uint64_t random = mixed(seed_);
    for (const uint64_t part : {steps_, static_cast<uint64_t>(index), uint64_t{phase}, static_cast<uint64_t>(moment)})
      random = mixed(random ^ part);
    return random;
  }

  // Returns when the others have finished `until` phases of the step, or nobody else is awake.
  void fall_behind(uint64_t until) {
    int awake = awake_.load(std::memory_order_relaxed);
    do {
      if (awake <= 1) return;
    } while (!awake_.compare_exchange_weak(awake, awake - 1, std::memory_order_relaxed));
    while (phase_.load(std::memory_order_relaxed) < until && awake_.load(std::memory_order_relaxed) > 0) sched_yield();
    awake_.fetch_add(1, std::memory_order_relaxed);
  }

  const std::atomic<uint32_t>& phase_;  // phases that are over
  uint64_t seed_ = 0, steps_ = 0;
  std::atomic<int> awake_{0};  // members in the step that are not late
};

#else

class Stress {
 public:
  explicit Stress(const std::atomic<uint32_t>&) {}
  void begin(int) {}
  void pass(int, uint32_t, Moment) {}
  void leave(int) {}
};

#endif

}  // namespace eet
