// Memory that grows and is used again.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <memory>

namespace native {

template <class T>
class Buffer {
 public:
  T* of(int64_t count) {
    if (count > count_) {
      const int64_t bytes = (count * static_cast<int64_t>(sizeof(T)) + 63) / 64 * 64;
      memory_.reset(static_cast<T*>(std::aligned_alloc(64, bytes)));
      count_ = count;
    }
    return memory_.get();
  }

 private:
  struct Free {
    void operator()(T* memory) const { std::free(memory); }
  };
  std::unique_ptr<T, Free> memory_;
  int64_t count_ = 0;
};

}  // namespace native
