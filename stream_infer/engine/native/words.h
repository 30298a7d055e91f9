// An 8-bit layer's outputs one by one: the words that a row may be translated with are few of all.
#pragma once

#include <cstdint>

#include "buffer.h"
#include "linear.h"

namespace native {

// `weights` are [outputs][inputs], where inputs are a multiple of 64.
struct OutputRows {
  Linear linear;
  const int8_t* weights;
};

// The outputs `words` of one row, which the first negative word ends: scores [width], and minus infinity behind.
inline void score_words(const OutputRows& outputs, const float* row, const int32_t* words, int64_t width,
                        float* scores) {
  static thread_local LevelsBuffer buffer;
  static thread_local Buffer<Level> sorted;
  const Linear& linear = outputs.linear;
  const Levels levels = buffer.of(1, linear.inputs);
  quantize(linear, row, 0, levels);
  Level* left = sorted.of(linear.inputs);
  sort_levels(levels.levels, linear.inputs, left);
  int64_t place = 0;
  for (; place < width && words[place] >= 0; ++place) {
    const int64_t word = words[place];
    const int32_t sum = multiply_row(left, outputs.weights + word * linear.inputs, linear.inputs);
    const auto whole = static_cast<float>(whole_sum(sum, linear.total[word], levels.lowest[0]));
    scores[place] = whole * levels.steps[0] * linear.scale[word] + linear.bias[word];
  }
  for (; place < width; ++place) scores[place] = -__builtin_inff();
}

}  // namespace native
