// Attention within one text, in integers that also float32 would add up exactly: see `exact.attend`.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "buffer.h"
#include "numbers.h"
#include "product.h"

namespace native {

struct Heads {
  int64_t count;
  int64_t size;
  float scaling;
  float query_levels;   // also those of keys
  float value_levels;
  float power_levels;
  float weight_levels;

  int64_t hidden() const { return count * size; }
};

struct AttentionBuffer {
  Buffer<int16_t> query, weights;
  Buffer<int32_t> keys, values;
  Buffer<float> query_steps, key_steps, scores;
};

inline float step_of(const float* row, int64_t size, float levels) {
  Floats greatest = broadcast(1e-30f);
  for (int64_t i = 0; i < size; i += kLanes) greatest = greater(greatest, magnitude(load(row + i)));
  return greatest_of(greatest) / levels;
}

inline Ints levels_at(const float* from, Floats per_step) { return to_ints(multiply(load(from), per_step)); }

inline float quantize_words(const float* row, int64_t size, float levels, int16_t* words) {
  const float step = step_of(row, size, levels);
  const Floats per_step = broadcast(1.0f / step);
  for (int64_t i = 0; i < size; i += kLanes) store_words(words + i, levels_at(row + i, per_step));
  return step;
}

// One head of one text: its rows of queries, keys and values lie `stride` apart.
class HeadAttention {
 public:
  HeadAttention(const Heads& heads, int64_t length, AttentionBuffer& buffer)
      : heads_(heads),
        length_(length),
        padded_((length + kLanes - 1) / kLanes * kLanes),
        query_(buffer.query.of(length * heads.size)),
        weights_(buffer.weights.of(kTileRows * padded_)),
        keys_(buffer.keys.of(padded_ * heads.size / 2)),
        values_(buffer.values.of(padded_ * heads.size / 2)),
        query_steps_(buffer.query_steps.of(length)),
        key_steps_(buffer.key_steps.of(padded_)),
        scores_(buffer.scores.of(kTileRows * padded_)) {}

  void read(const float* query, const float* key, const float* value, int64_t stride) {
    read_queries(query, stride);
    read_keys(key, stride);
    read_values(value, stride);
  }

  // context: the head's part of the first row, rows lying `stride` apart.
  void write(float* context, int64_t stride) {
    for_each_tile(length_, [&](int64_t first, int64_t rows) {
      score(first, rows);
      for (int64_t row = 0; row < rows; ++row) weigh(scores_ + row * padded_, weights_ + row * padded_);
      mix(rows, context + first * stride, stride);
    });
  }

 private:
  void read_queries(const float* query, int64_t stride) {
    for (int64_t row = 0; row < length_; ++row) {
      int16_t* words = query_ + row * heads_.size;
      const float step = quantize_words(query + row * stride, heads_.size, heads_.query_levels, words);
      query_steps_[row] = step * heads_.scaling;
    }
  }

  // Keys become columns: [size / 2][padded], 2 words of a key in each.
  void read_keys(const float* key, int64_t stride) {
    alignas(64) int32_t pairs[128];
    for (int64_t row = 0; row < padded_; ++row) {
      if (row < length_) {
        auto* words = reinterpret_cast<int16_t*>(pairs);
        key_steps_[row] = quantize_words(key + row * stride, heads_.size, heads_.query_levels, words);
      } else {
        key_steps_[row] = 0.0f;
        std::memset(pairs, 0, sizeof pairs);
      }
      for (int64_t pair = 0; pair < heads_.size / 2; ++pair) keys_[pair * padded_ + row] = pairs[pair];
    }
  }

  // Values go in pairs of rows: [padded / 2][size].
  void read_values(const float* value, int64_t stride) {
    float step = 0.0f;
    for (int64_t row = 0; row < length_; ++row) {
      step = std::max(step, step_of(value + row * stride, heads_.size, heads_.value_levels));
    }
    value_step_ = step;
    const Floats per_step = broadcast(1.0f / step);
    for (int64_t row = 0; row < padded_; row += 2) {
      for (int64_t i = 0; i < heads_.size; i += kLanes) {
        const float* from = value + row * stride + i;
        const Ints even = row < length_ ? levels_at(from, per_step) : broadcast(0);
        const Ints odd = row + 1 < length_ ? levels_at(from + stride, per_step) : broadcast(0);
        store(values_ + row / 2 * heads_.size + i, interleave_words(even, odd));
      }
    }
  }

  void score(int64_t first, int64_t rows) {
    const auto* query = reinterpret_cast<const int32_t*>(query_ + first * heads_.size);
    for (int64_t column = 0; column < padded_; column += kTileColumns) {
      const int64_t blocks = std::min(kTileBlocks, (padded_ - column) / kLanes);
      tile_of<Packed::kWords>(rows, blocks)(query, heads_.size / 2, keys_ + column, padded_, heads_.size / 2,
                                            sums_);
      for (int64_t row = 0; row < rows; ++row) {
        const Floats step = broadcast(query_steps_[first + row]);
        for (int64_t block = 0; block < blocks * kLanes; block += kLanes) {
          const Floats score = multiply(sum_at(row, block), step);
          float* place = scores_ + row * padded_ + column + block;
          store(place, multiply(score, load(key_steps_ + column + block)));
        }
      }
    }
  }

  // Softmax: first powers as whole levels, whose sum is exact, then their shares as whole levels.
  void weigh(float* scores, int16_t* weights) const {
    const Floats lowest = broadcast(-__builtin_inff());
    Floats greatest = lowest;
    for (int64_t i = 0; i < padded_; i += kLanes) {
      greatest = greater(greatest, first_of(length_ - i, load(scores + i), lowest));
    }
    const Floats top = broadcast(greatest_of(greatest));
    Ints total = broadcast(0);
    for (int64_t i = 0; i < padded_; i += kLanes) {
      const Floats below = multiply(subtract(load(scores + i), top), broadcast(1.44269504f));
      const Floats power = power_of_two(greater(below, broadcast(-100.0f)));
      const Floats share = first_of(length_ - i, multiply(power, broadcast(heads_.power_levels)), broadcast(0.0f));
      const Ints levels = to_ints(share);
      total = add(total, levels);
      store(scores + i, to_floats(levels));
    }
    const Floats share = broadcast(heads_.weight_levels / static_cast<float>(sum_of(total)));
    for (int64_t i = 0; i < padded_; i += kLanes) store_words(weights + i, levels_at(scores + i, share));
  }

  void mix(int64_t rows, float* context, int64_t stride) {
    const Floats step = broadcast(value_step_ / heads_.weight_levels);
    const auto* weights = reinterpret_cast<const int32_t*>(weights_);
    for (int64_t column = 0; column < heads_.size; column += kTileColumns) {
      const int64_t blocks = std::min(kTileBlocks, (heads_.size - column) / kLanes);
      tile_of<Packed::kWords>(rows, blocks)(weights, padded_ / 2, values_ + column, heads_.size, padded_ / 2,
                                            sums_);
      for (int64_t row = 0; row < rows; ++row) {
        for (int64_t block = 0; block < blocks * kLanes; block += kLanes) {
          store(context + row * stride + column + block, multiply(sum_at(row, block), step));
        }
      }
    }
  }

  Floats sum_at(int64_t row, int64_t block) const {
    return to_floats(load(sums_ + row * kTileColumns + block));
  }

  const Heads& heads_;
  const int64_t length_, padded_;
  int16_t *query_, *weights_;
  int32_t *keys_, *values_;
  float *query_steps_, *key_steps_, *scores_;
  float value_step_ = 0.0f;
  alignas(64) int32_t sums_[kTileRows * kTileColumns];
};

}  // namespace native
