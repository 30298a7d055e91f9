// Layer normalisation of a sum: see `exact.normalize`, whose numbers these are.
#pragma once

#include <cstdint>

#include "lanes.h"
#include "numbers.h"

namespace native {

struct Norm {
  const float* weight;
  const float* bias;
};

// hidden = norm(hidden + added), by one row. Sums of float64 round to the same float32 in any order.
inline void add_and_normalize(float* hidden, const float* added, int64_t size, const Norm& norm, double epsilon) {
  Doubles sum = no_doubles();
  for (int64_t i = 0; i < size; i += kLanes) {
    const Floats both = add(load(hidden + i), load(added + i));
    store(hidden + i, both);
    sum = add(sum, add(lower_half(both), upper_half(both)));
  }
  const Floats mean = broadcast(static_cast<float>(sum_of(sum) / static_cast<double>(size)));
  sum = no_doubles();
  for (int64_t i = 0; i < size; i += kLanes) {
    const Floats apart = subtract(load(hidden + i), mean);
    store(hidden + i, apart);
    const Doubles lower = lower_half(apart), upper = upper_half(apart);
    sum = add(sum, add(multiply(lower, lower), multiply(upper, upper)));
  }
  const double spread = __builtin_sqrt(sum_of(sum) / static_cast<double>(size) + epsilon);
  const Floats factor = broadcast(static_cast<float>(1.0 / spread));
  for (int64_t i = 0; i < size; i += kLanes) {
    const Floats scaled = multiply(load(hidden + i), factor);
    store(hidden + i, multiply_then_add(scaled, load(norm.weight + i), load(norm.bias + i)));
  }
}

}  // namespace native
