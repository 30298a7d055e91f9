// One step of decoding: a token of each row through all layers. See `marian_layers.DecoderLayer`.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "buffer.h"
#include "linear.h"
#include "norm.h"

namespace native {

// `past` makes a recurrent unit's candidate and gate, or the query, key and value of attention over the
// row's past, which `past_attended` follows.
struct DecoderLayer {
  Linear past, past_attended, query, attended, inner, outer;
  Norm past_norm, attention_norm, output_norm;
};

struct Decoder {
  const DecoderLayer* layers;
  int64_t count;
  int64_t heads, head_size;
  int64_t is_recurrent;
  Then activation;
  double epsilon;
  float scaling;

  int64_t size() const { return heads * head_size; }
};

// What a layer's rows look back at. A key and a value follow each other: [2][size].
struct Lookback {
  float* past;          // a cell, [rows][size], or keys and values, [rows][capacity][2][size]
  const float* source;  // keys and values of all sources' tokens, [tokens][2][size]
};

// The rows that are decoded, each with its source's first token and length. `steps` are in the past.
struct DecodedRows {
  const Lookback* lookbacks;  // by layer
  const int64_t *firsts, *lengths;
  int64_t steps, capacity;
};

struct StepBuffer {
  LevelsBuffer levels;
  Buffer<float> wide, narrow, scores;
};

// Attention of one query of one head at a time: see `exact.attend_once`. Products of float32 are exact in
// float64, and their sums round to the same float32 in any order.
class QueryAttention {
 public:
  // Keys and values lie `stride` apart.
  QueryAttention(int64_t size, int64_t stride, float scaling) : size_(size), stride_(stride), scaling_(scaling) {}

  void run(const float* query, const float* keys, const float* values, int64_t length, StepBuffer& buffer,
           float* context) const {
    float* weights = buffer.scores.of((length + kLanes - 1) / kLanes * kLanes);
    score(query, keys, length, weights);
    const float share = 1.0f / raise(length, weights);
    for (int64_t i = 0; i < size_; i += kLanes) mix(values + i, length, weights, share, context + i);
  }

 private:
  static constexpr int64_t kLargest = 128;

  void score(const float* query, const float* keys, int64_t length, float* scores) const {
    Doubles factors[kLargest / 8];
    for (int64_t i = 0; i < size_; i += kLanes) {
      factors[i / 8] = lower_half(load(query + i));
      factors[i / 8 + 1] = upper_half(load(query + i));
    }
    for (int64_t place = 0; place < length; ++place) {
      Doubles low = no_doubles(), high = low;
      for (int64_t i = 0; i < size_; i += kLanes) {
        const Floats key = load(keys + place * stride_ + i);
        low = add(low, multiply(factors[i / 8], lower_half(key)));
        high = add(high, multiply(factors[i / 8 + 1], upper_half(key)));
      }
      scores[place] = static_cast<float>(sum_of(add(low, high))) * scaling_;
    }
  }

  // Scores become powers, zero behind the last; returns their sum.
  static float raise(int64_t length, float* scores) {
    const Floats lowest = broadcast(-__builtin_inff());
    Floats greatest = lowest;
    for (int64_t i = 0; i < length; i += kLanes) {
      greatest = greater(greatest, first_of(length - i, load(scores + i), lowest));
    }
    const Floats top = broadcast(greatest_of(greatest));
    Doubles total = no_doubles();
    for (int64_t i = 0; i < length; i += kLanes) {
      const Floats below = multiply(subtract(load(scores + i), top), broadcast(1.44269504f));
      const Floats power = power_of_two(greater(below, broadcast(-100.0f)));
      const Floats inside = first_of(length - i, power, broadcast(0.0f));
      total = add(total, add(lower_half(inside), upper_half(inside)));
      store(scores + i, inside);
    }
    return static_cast<float>(sum_of(total));
  }

  void mix(const float* values, int64_t length, const float* weights, float share, float* context) const {
    Doubles low = no_doubles(), high = low;
    for (int64_t place = 0; place < length; ++place) {
      const Doubles weight = broadcast(static_cast<double>(weights[place]));
      const Floats value = load(values + place * stride_);
      low = add(low, multiply(weight, lower_half(value)));
      high = add(high, multiply(weight, upper_half(value)));
    }
    store(context, multiply(join_halves(low, high), broadcast(share)));
  }

  const int64_t size_, stride_;
  const float scaling_;
};

// Takes rows first..first+count-1 through a step; hidden [count][size] are theirs.
class Step {
 public:
  Step(const Decoder& decoder, const DecodedRows& rows, int64_t first, int64_t count, float* hidden,
       StepBuffer& buffer)
      : decoder_(decoder), rows_(rows), first_(first), count_(count), size_(decoder.size()), hidden_(hidden),
        buffer_(buffer) {
    const int64_t inner = decoder.layers->inner.outputs, widest = std::max(3 * size_, inner);
    levels_ = buffer.levels.of(count, widest);
    wide_ = buffer.wide.of(count * widest);
    narrow_ = buffer.narrow.of(count * size_);
  }

  void run() {
    for (int64_t layer = 0; layer < decoder_.count; ++layer) run(decoder_.layers[layer], rows_.lookbacks[layer]);
  }

 private:
  void run(const DecoderLayer& layer, const Lookback& lookback) {
    apply<Then::kNothing>(layer.past, hidden_, count_, levels_, wide_, Team());
    if (decoder_.is_recurrent) {
      remember(lookback.past + first_ * size_);
      join(narrow_, layer.past_norm);
    } else {
      attend_to_past(lookback.past);
      apply<Then::kNothing>(layer.past_attended, narrow_, count_, levels_, wide_, Team());
      join(wide_, layer.past_norm);
    }
    apply<Then::kNothing>(layer.query, hidden_, count_, levels_, wide_, Team());
    for (int64_t row = 0; row < count_; ++row) {
      const float* own = lookback.source + rows_.firsts[first_ + row] * 2 * size_;
      attend(wide_ + row * size_, own, rows_.lengths[first_ + row], narrow_ + row * size_);
    }
    apply<Then::kNothing>(layer.attended, narrow_, count_, levels_, wide_, Team());
    join(wide_, layer.attention_norm);
    apply(decoder_.activation, layer.inner, hidden_, count_, levels_, wide_, Team());
    apply<Then::kNothing>(layer.outer, wide_, count_, levels_, narrow_, Team());
    join(narrow_, layer.output_norm);
  }

  void join(const float* added, const Norm& norm) {
    for (int64_t row = 0; row < count_; ++row) {
      add_and_normalize(hidden_ + row * size_, added + row * size_, size_, norm, decoder_.epsilon);
    }
  }

  // The recurrent unit's cells, from candidates and gates; see `exact.mix`.
  void remember(float* cells) {
    for (int64_t row = 0; row < count_; ++row) {
      const float* candidates = wide_ + row * 2 * size_;
      float* cell = cells + row * size_;
      for (int64_t i = 0; i < size_; i += kLanes) {
        const Floats candidate = load(candidates + i), gate = sigmoid(load(candidates + size_ + i));
        const Floats kept = multiply(subtract(load(cell + i), candidate), gate);
        const Floats mixed = add(candidate, kept);
        store(cell + i, mixed);
        store(narrow_ + row * size_ + i, greater(mixed, broadcast(0.0f)));
      }
    }
  }

  void attend_to_past(float* past) {
    const int64_t pair = 2 * size_;
    for (int64_t row = 0; row < count_; ++row) {
      float* own = past + (first_ + row) * rows_.capacity * pair;
      const float* query = wide_ + row * 3 * size_;
      std::memcpy(own + rows_.steps * pair, query + size_, pair * sizeof(float));
      attend(query, own, rows_.steps + 1, narrow_ + row * size_);
    }
  }

  void attend(const float* query, const float* keys_values, int64_t length, float* context) {
    const QueryAttention attention(decoder_.head_size, 2 * size_, decoder_.scaling);
    for (int64_t place = 0; place < size_; place += decoder_.head_size) {
      attention.run(query + place, keys_values + place, keys_values + size_ + place, length, buffer_,
                    context + place);
    }
  }

  const Decoder& decoder_;
  const DecodedRows& rows_;
  const int64_t first_, count_, size_;
  float* hidden_;
  StepBuffer& buffer_;
  Levels levels_;
  float *wide_, *narrow_;
};

}  // namespace native
