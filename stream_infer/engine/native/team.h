// Threads that take one thing through its steps together.
#pragma once

#include <immintrin.h>
#include <sched.h>

#include <atomic>
#include <cstdint>

namespace native {

// Where threads wait for the last of them. They spin: steps take microseconds, less than to fall asleep
// and be woken; who has spun for long gives its core away, as the last may be waiting for one.
class Barrier {
 public:
  void wait(int32_t threads) {
    const uint32_t round = round_.load(std::memory_order_acquire);
    if (arrived_.fetch_add(1, std::memory_order_acq_rel) + 1 == threads) {
      arrived_.store(0, std::memory_order_relaxed);
      round_.store(round + 1, std::memory_order_release);
      return;
    }
    for (int spins = 0; round_.load(std::memory_order_acquire) == round; ++spins) {
      if (spins < kSpins) {
        _mm_pause();
      } else {
        sched_yield();
      }
    }
  }

 private:
  static constexpr int kSpins = 4000;
  alignas(64) std::atomic<int32_t> arrived_{0};
  alignas(64) std::atomic<uint32_t> round_{0};
};

// One thread's place among those that work together.
class Team {
 public:
  Team() = default;
  Team(int32_t rank, int32_t size, Barrier& barrier) : rank_(rank), size_(size), barrier_(&barrier) {}

  // Returns when all threads have come here.
  void wait() const {
    if (size_ > 1) barrier_->wait(size_);
  }

  // Calls visit(task) for this thread's share of the tasks, the same whenever there are as many.
  template <class Visit>
  void share(int64_t tasks, Visit visit) const {
    const int64_t end = tasks * (rank_ + 1) / size_;
    for (int64_t task = tasks * rank_ / size_; task < end; ++task) visit(task);
  }

 private:
  int32_t rank_ = 0, size_ = 1;
  Barrier* barrier_ = nullptr;
};

}  // namespace native
