// A team of threads that walks one program together, phase by phase, and within a step does not wait for a member that
// lost its core.
//
// A phase is a number of independent items. Every member owns an even, contiguous share of them, takes its own from the
// front (so that it streams through its weights in order), and when it has none left takes the others' from the back.
// A phase is over when all items are done, not when all members have arrived: a member that another process has pushed
// off its core delays the others by the items it holds alone, and finds the phases it missed already over. What an item
// computes does not depend on who runs it, so results do not depend on the number of threads.
//
// The rule that follows: between its items a member may be late by any number of phases. Shared is what items write:
// buffers, scratch, the cache, the sampled tokens.
//
//     outside an item  nothing shared is read that a later phase of the step writes, and nothing shared is written
//     inside an item   what earlier phases wrote is there; what other items of the same phase write is theirs
//
// So the number of phases, and of a phase's items, follows from the program and the step's record alone, and what one
// phase leaves for the next is looked up by each item that needs it. Prefetching is no reading. Builds with
// -DEET_STRESS make members late on purpose (stress.h).
//
// The calling thread is member 0. The end of a step is the one place where all wait for all, because the job and the
// step's record are the caller's. Between steps the others are parked: they spin for a moment (the next decode step is
// microseconds away), then sleep, so that an idle engine costs nothing.
#pragma once

#include <sched.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <thread>
#include <vector>

#include "stress.h"

namespace eet {

constexpr std::chrono::microseconds kSpinInPhase{100};
constexpr std::chrono::microseconds kSpinBetweenSteps{200};

inline void pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// Spins until `done()` or until `limit` has passed; true when done.
template <class Done>
bool spin(Done done, std::chrono::microseconds limit) {
  for (int i = 0; i < 32; ++i) {
    if (done()) return true;
    pause();
  }
  const auto end = std::chrono::steady_clock::now() + limit;
  while (std::chrono::steady_clock::now() < end) {
    for (int i = 0; i < 16; ++i) {
      if (done()) return true;
      pause();
    }
  }
  return false;
}

// Memory that a member will read soon, brought into its second-level cache while it has nothing else to do.
class Ahead {
 public:
  Ahead() = default;
  Ahead(const void* from, int64_t bytes) : next_(static_cast<const char*>(from)), end_(next_ + bytes) {}

  // Brings in a little more; false when all is there.
  bool advance() {
    constexpr int kLines = 8;
    for (int i = 0; i < kLines && next_ < end_; ++i, next_ += 64) __builtin_prefetch(next_, 0, 2);
    return next_ < end_;
  }

 private:
  const char *next_ = nullptr, *end_ = nullptr;
};

// Waits until `done()`: looks ahead, then spins, then lets other threads run.
template <class Done>
void wait_until(Done done, Ahead* ahead) {
  do {
    if (done()) return;
  } while (ahead->advance());
  if (spin(done, kSpinInPhase)) return;
  while (!done()) sched_yield();
}

// Indices begin .. end.
struct Range {
  int64_t begin, end;

  int64_t size() const { return end - begin; }
};

// Part `index` of `count` even, contiguous parts of `total` items.
inline Range even_part(int64_t total, int64_t index, int64_t count) {
  return {total * index / count, total * (index + 1) / count};
}

// How much of a member's share is taken, in the phase it speaks of: one word, so that one exchange takes items. A share
// is at most 2^20 items, a step at most 2^24 phases.
struct Taken {
  uint64_t phase : 24, front : 20, back : 20;
};

constexpr int64_t kMostTaken = 16;  // items at once: what a member that loses its core may hold up

class Team {
 public:
  // One thread's view of the team during a step.
  class Member {
   public:
    Member(Team* team, int index) : team_(team), index_(index) {}

    // A phase: work(item) for each of 0 .. items, by whoever is free; returns when all are done.
    template <class Work>
    void for_each(int64_t items, Work work) {
      if (items == 0) return;
      team_->stress_.pass(index_, phase_, Moment::kBeforeTaking);
      int64_t done = 0;
      for (int offset = 0; offset < team_->count_; ++offset) {
        const int owner = (index_ + offset) % team_->count_;
        const Range share = even_part(items, owner, team_->count_);
        for (Range some; (some = team_->take(owner, phase_, share, offset == 0)).size() > 0; done += some.size())
          for (int64_t item = some.begin; item < some.end; ++item) work(item);
      }
      team_->finish(phase_, done, items, &ahead_);
      team_->stress_.pass(index_, phase_, Moment::kAfterFinishing);
      ++phase_;
    }

    // This member's share of a coming phase's items.
    Range share(int64_t items) const { return even_part(items, index_, team_->count_); }

    // What to bring into the cache in idle moments from now on.
    void look_ahead(Ahead ahead) { ahead_ = ahead; }

   private:
    Team* team_;
    int index_;
    uint32_t phase_ = 0;
    Ahead ahead_;
  };

  explicit Team(int count) : count_(count), taken_(count) {
    try {
      for (int index = 1; index < count; ++index) threads_.emplace_back([this, index] { serve(index); });
    } catch (...) {  // a thread could not be started
      dismiss();
      throw;
    }
  }

  ~Team() { dismiss(); }

#ifdef EET_STRESS
  // Chooses who is late where, from the next step on.
  void stress(uint64_t seed) { stress_.seed(seed); }
#endif

  // Runs job(member) on every member and returns when all are through. Not for use by two threads at once.
  template <class Job>
  void run(const Job& job) {
    for (auto& slot : taken_) slot.word.store(Taken{0, 0, 0}, std::memory_order_relaxed);
    phase_.store(0, std::memory_order_relaxed);
    away_.store(count_ - 1, std::memory_order_relaxed);
    stress_.begin(count_);
    call(&job, [](const void* erased, Member& member) { (*static_cast<const Job*>(erased))(member); });
    Member caller(this, 0);
    job(caller);
    stress_.leave(0);
    Ahead nothing;
    wait_until([&] { return away_.load(std::memory_order_acquire) == 0; }, &nothing);
  }

 private:
  using Entry = void (*)(const void* job, Member& member);

  struct alignas(64) Slot {
    std::atomic<Taken> word{};
  };

  // Takes items of the owner's share in `phase`: of one's own half of those left, from the front (an exchange drains
  // the processor's pipeline, so it should not come after every item), of another's one, from the back. Empty if none.
  Range take(int owner, uint32_t phase, Range share, bool own) {
    auto& word = taken_[owner].word;
    Taken now = word.load(std::memory_order_relaxed);
    for (;;) {
      const Taken base = now.phase == phase ? now : Taken{phase, 0, 0};
      const int64_t front = static_cast<int64_t>(base.front), back = static_cast<int64_t>(base.back);
      const int64_t left = share.size() - front - back;
      if (now.phase > phase || left <= 0) return {0, 0};
      const int64_t count = own ? std::clamp<int64_t>(left / 2, 1, kMostTaken) : 1;
      Taken next = base;
      own ? next.front += static_cast<uint64_t>(count) : next.back += 1;
      if (word.compare_exchange_weak(now, next, std::memory_order_relaxed)) {
        const int64_t first = own ? share.begin + front : share.end - back - 1;
        return {first, first + count};
      }
    }
  }

  // Reports `done` finished items; returns when all of the phase's are.
  void finish(uint32_t phase, int64_t done, int64_t items, Ahead* ahead) {
    if (done > 0 && done_.fetch_add(done, std::memory_order_acq_rel) + done == items) {
      done_.store(0, std::memory_order_relaxed);
      phase_.store(phase + 1, std::memory_order_release);
      return;
    }
    wait_until([&] { return phase_.load(std::memory_order_acquire) > phase; }, ahead);
  }

  void dismiss() {
    call(nullptr, nullptr);
    for (auto& thread : threads_) thread.join();
  }

  // Hands `job` to the other members; without an entry it sends them home.
  void call(const void* job, Entry entry) {
    job_ = job;
    entry_ = entry;
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      calls_.fetch_add(1, std::memory_order_release);
    }
    wake_.notify_all();
  }

  void serve(int index) {
    for (uint32_t seen = 0;; ++seen) {
      const auto called = [&] { return calls_.load(std::memory_order_acquire) != seen; };
      if (!spin(called, kSpinBetweenSteps)) {
        std::unique_lock<std::mutex> lock(mutex_);
        wake_.wait(lock, called);
      }
      if (!entry_) return;
      Member member(this, index);
      entry_(job_, member);
      stress_.leave(index);
      away_.fetch_sub(1, std::memory_order_release);
    }
  }

  const int count_;
  std::vector<Slot> taken_;
  alignas(64) std::atomic<int64_t> done_{0};    // items finished in the current phase
  alignas(64) std::atomic<uint32_t> phase_{0};  // phases finished in this step
  alignas(64) std::atomic<int> away_{0};        // members that have not come back from this step
  std::atomic<uint32_t> calls_{0};
  std::mutex mutex_;
  std::condition_variable wake_;
  const void* job_ = nullptr;
  Entry entry_ = nullptr;
  std::vector<std::thread> threads_;
  Stress stress_{phase_};
};

using Member = Team::Member;

}  // namespace eet
