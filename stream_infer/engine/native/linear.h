// The 8-bit linear layer: see `Int8Linear`, whose numbers these are.
#pragma once

#include <algorithm>
#include <cstdint>

#include "buffer.h"
#include "numbers.h"
#include "product.h"
#include "team.h"

namespace native {

// Pointers into the tensors of an Int8Linear; arrays by column are padded to a multiple of kTileColumns.
struct Linear {
  const int32_t* weight;  // [panels][depth][kTileColumns], 4 bytes of a column in each
  const int32_t* total;
  const float* scale;
  const float* bias;
  const float* smoothing;  // by input, or null
  int64_t inputs;
  int64_t outputs;

  int64_t depth() const { return (inputs + 3) / 4; }
  int64_t panels() const { return (outputs + kTileColumns - 1) / kTileColumns; }
};

// Rows rounded to 256 levels between each one's least and greatest number.
struct Levels {
  Level* levels;  // [rows][stride], counted from the row's lowest level
  int32_t* lowest;
  float* steps;

  static int64_t stride(int64_t inputs) { return (inputs + kLanes - 1) / kLanes * kLanes; }
};

class LevelsBuffer {
 public:
  Levels of(int64_t rows, int64_t inputs) {
    return {levels_.of(rows * Levels::stride(inputs)), lowest_.of(rows), steps_.of(rows)};
  }

 private:
  Buffer<Level> levels_;
  Buffer<int32_t> lowest_;
  Buffer<float> steps_;
};

// Sixteen numbers of a row at `place`, or what is left of it, times their factors where there are any.
inline Floats smoothed(const Linear& linear, const float* row, int64_t place) {
  const Floats values = load_first(linear.inputs - place, row + place);
  if (!linear.smoothing) return values;
  return multiply(values, load_first(linear.inputs - place, linear.smoothing + place));
}

inline void quantize(const Linear& linear, const float* row, int64_t place, const Levels& to) {
  const int64_t size = linear.inputs;
  Floats least = broadcast(0.0f), greatest = least;
  for (int64_t i = 0; i < size; i += kLanes) {
    const Floats values = smoothed(linear, row, i);
    least = lesser(least, values);
    greatest = greater(greatest, values);
  }
  const float low = least_of(least);
  const float step = std::max((greatest_of(greatest) - low) / 255.0f, 1e-32f);
  const float per_step = 1.0f / step;
  const int32_t lowest = _mm_cvtss_si32(_mm_set_ss(low * per_step));
  to.steps[place] = step;
  to.lowest[place] = lowest;
  Level* levels = to.levels + place * Levels::stride(size);
  for (int64_t i = 0; i < size; i += kLanes) {
    const Ints rounded = to_ints(multiply(smoothed(linear, row, i), broadcast(per_step)));
    store_levels(levels + i, subtract(rounded, broadcast(lowest)));
  }
}

// What is done to a layer's outputs; `Activation.code` in `exact.py` names these.
enum class Then : int64_t { kNothing, kGelu, kRelu, kSilu };

template <Then then>
inline Floats activate(Floats value) {
  if constexpr (then == Then::kGelu) return gelu(value);
  if constexpr (then == Then::kRelu) return greater(value, broadcast(0.0f));
  if constexpr (then == Then::kSilu) return silu(value);
  return value;
}

// The panel of columns from `column` on, of rows first..first+count-1: out [rows][outputs].
template <Then then>
void apply_columns(const Linear& linear, const Levels& from, int64_t first, int64_t count, int64_t column,
                   float* out) {
  alignas(64) int32_t sums[kTileRows * kTileColumns];
  const int64_t stride = Levels::stride(linear.inputs) * static_cast<int64_t>(sizeof(Level)) / 4;
  const auto* left = reinterpret_cast<const int32_t*>(from.levels) + first * stride;
  const int64_t columns = std::min(kTileColumns, linear.outputs - column);
  for_each_tile(count, [&](int64_t start, int64_t rows) {
    tile_of<Packed::kBytes>(rows, (columns + kLanes - 1) / kLanes)(
        left + start * stride, stride, linear.weight + column * linear.depth(), kTileColumns, linear.depth(),
        sums);
    for (int64_t block = 0; block < columns; block += kLanes) {
      const Ints total = load(linear.total + column + block);
      const Floats scale = load(linear.scale + column + block), bias = load(linear.bias + column + block);
      for (int64_t row = 0; row < rows; ++row) {
        const int64_t place = first + start + row;
        const Ints below = multiply(total, broadcast(from.lowest[place]));
        const Floats sum = to_floats(add(load(sums + row * kTileColumns + block), below));
        Floats value = multiply(sum, broadcast(from.steps[place]));
        value = activate<then>(multiply_then_add(value, scale, bias));
        store_first(columns - block, out + place * linear.outputs + column + block, value);
      }
    }
  });
}

constexpr int64_t kChunkRows = 64;  // enough to use each weight often, few enough to stay in the L2 cache

// out [rows][outputs] = the layer's outputs for rows [rows][inputs]. A team's thread takes the same rows
// whenever there are as many: what it wrote of them itself need not be waited for.
template <Then then>
void apply(const Linear& linear, const float* rows, int64_t count, const Levels& levels, float* out,
           const Team& team) {
  team.share(count, [&](int64_t row) { quantize(linear, rows + row * linear.inputs, row, levels); });
  team.wait();
  const int64_t panels = linear.panels(), chunks = (count + kChunkRows - 1) / kChunkRows;
  team.share(chunks * panels, [&](int64_t task) {
    const int64_t first = task / panels * kChunkRows;
    apply_columns<then>(linear, levels, first, std::min(kChunkRows, count - first),
                        task % panels * kTileColumns, out);
  });
  team.wait();
}

// The same with an activation that is known only now.
inline void apply(Then then, const Linear& linear, const float* rows, int64_t count, const Levels& levels,
                  float* out, const Team& team) {
  switch (then) {
    case Then::kNothing: return apply<Then::kNothing>(linear, rows, count, levels, out, team);
    case Then::kGelu: return apply<Then::kGelu>(linear, rows, count, levels, out, team);
    case Then::kRelu: return apply<Then::kRelu>(linear, rows, count, levels, out, team);
    case Then::kSilu: return apply<Then::kSilu>(linear, rows, count, levels, out, team);
  }
}

}  // namespace native
