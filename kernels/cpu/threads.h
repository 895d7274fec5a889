// A fixed team of threads that run one step together and meet at barriers inside it.
//
// The calling thread is member 0; the others are parked between steps: they spin for a moment (the next decode step is
// microseconds away), then sleep, so that an idle engine costs nothing. A barrier spins with the pause instruction, then
// yields: when another process holds the core, the wait hands over to it instead of burning its slice.
#pragma once

#include <sched.h>

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <thread>
#include <vector>

namespace eet {

constexpr std::chrono::microseconds kSpinAtBarrier{20};
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

// All members arrive before any leaves. What a member wrote before it, every member sees after it.
class Barrier {
 public:
  explicit Barrier(int members) : members_(members) {}

  void wait() {
    if (members_ == 1) return;
    const uint32_t phase = phase_.load(std::memory_order_relaxed);
    if (arrived_.fetch_add(1, std::memory_order_acq_rel) == members_ - 1) {
      arrived_.store(0, std::memory_order_relaxed);
      phase_.store(phase + 1, std::memory_order_release);
      return;
    }
    const auto passed = [&] { return phase_.load(std::memory_order_acquire) != phase; };
    if (spin(passed, kSpinAtBarrier)) return;
    while (!passed()) sched_yield();
  }

 private:
  const int members_;
  alignas(64) std::atomic<int> arrived_{0};
  alignas(64) std::atomic<uint32_t> phase_{0};
};

// Indices begin .. end.
struct Range {
  int64_t begin, end;
};

// One thread's view of the team.
struct Member {
  int index, count;
  Barrier* barrier;

  // This member's share of `total` items, contiguous and even.
  Range share(int64_t total) const { return {total * index / count, total * (index + 1) / count}; }
};

class Team {
 public:
  explicit Team(int members) : members_(members), barrier_(members) {
    for (int index = 1; index < members; ++index) threads_.emplace_back([this, index] { serve(index); });
  }

  ~Team() {
    call(nullptr, nullptr);
    for (auto& thread : threads_) thread.join();
  }

  int members() const { return members_; }

  // Runs `job` on every member and returns when all are done. Not for use by two threads at once.
  template <class Job>
  void run(const Job& job) {
    call(&job, [](const void* erased, const Member& member) { (*static_cast<const Job*>(erased))(member); });
    job(Member{0, members_, &barrier_});
    barrier_.wait();
  }

 private:
  using Entry = void (*)(const void* job, const Member& member);

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
      entry_(job_, Member{index, members_, &barrier_});
      barrier_.wait();
    }
  }

  const int members_;
  Barrier barrier_;
  std::vector<std::thread> threads_;
  std::mutex mutex_;
  std::condition_variable wake_;
  std::atomic<uint32_t> calls_{0};
  const void* job_ = nullptr;
  Entry entry_ = nullptr;
};

}  // namespace eet
