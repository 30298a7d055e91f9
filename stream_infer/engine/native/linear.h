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
  const int32_t* total;    // [groups][panels][kTileColumns]
  const float* scale;      // the same
  const float* bias;
  const float* smoothing;  // by input, or null
  int64_t inputs;
  int64_t outputs;
  int64_t group;  // inputs that are rounded together

  int64_t groups() const { return (inputs + group - 1) / group; }
  int64_t depth() const { return (inputs + 3) / 4; }
  int64_t panels() const { return (outputs + kTileColumns - 1) / kTileColumns; }
};

constexpr int64_t kLeastGroup = 64;  // unless all inputs are one group

// Rows rounded, group by group, to 256 levels between the least and the greatest number of each.
struct Levels {
  Level* levels;    // [rows][stride]
  int32_t* lowest;  // [rows][groups]
  float* steps;     // the same

  static int64_t stride(int64_t inputs) { return (inputs + kLanes - 1) / kLanes * kLanes; }
};

class LevelsBuffer {
 public:
  Levels of(int64_t rows, int64_t inputs) {
    const int64_t groups = inputs / kLeastGroup + 1;
    return {levels_.of(rows * Levels::stride(inputs)), lowest_.of(rows * groups), steps_.of(rows * groups)};
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

inline void quantize_group(const Linear& linear, const float* row, int64_t place, int64_t group,
                           const Levels& to) {
  const int64_t first = group * linear.group, end = std::min(first + linear.group, linear.inputs);
  Floats least = broadcast(0.0f), greatest = least;
  for (int64_t i = first; i < end; i += kLanes) {
    const Floats values = smoothed(linear, row, i);
    least = lesser(least, values);
    greatest = greater(greatest, values);
  }
  const float low = least_of(least);
  const float step = std::max((greatest_of(greatest) - low) / 255.0f, 1e-32f);
  const float per_step = 1.0f / step;
  const int32_t lowest = _mm_cvtss_si32(_mm_set_ss(low * per_step));
  to.steps[place * linear.groups() + group] = step;
  to.lowest[place * linear.groups() + group] = lowest;
  Level* levels = to.levels + place * Levels::stride(linear.inputs);
  for (int64_t i = first; i < end; i += kLanes) {
    store_levels(levels + i, to_ints(multiply(smoothed(linear, row, i), broadcast(per_step))), lowest);
  }
}

inline void quantize(const Linear& linear, const float* row, int64_t place, const Levels& to) {
  for (int64_t group = 0; group < linear.groups(); ++group) quantize_group(linear, row, place, group, to);
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
  alignas(64) float values[kTileRows * kTileColumns];
  const int64_t stride = Levels::stride(linear.inputs) * static_cast<int64_t>(sizeof(Level)) / 4;
  const auto* left = reinterpret_cast<const int32_t*>(from.levels) + first * stride;
  const int64_t columns = std::min(kTileColumns, linear.outputs - column);
  const int64_t groups = linear.groups(), depth = (std::min(linear.group, linear.inputs) + 3) / 4;
  for_each_tile(count, [&](int64_t start, int64_t rows) {
    const MultiplyTile multiply_group = tile_of<Packed::kBytes>(rows, (columns + kLanes - 1) / kLanes);
    for (int64_t group = 0; group < groups; ++group) {
      const bool is_last = group == groups - 1;
      multiply_group(left + start * stride + group * depth * static_cast<int64_t>(sizeof(Level)), stride,
                     linear.weight + column * linear.depth() + group * depth * kTileColumns, kTileColumns,
                     std::min(depth, linear.depth() - group * depth), sums);
      for (int64_t block = 0; block < columns; block += kLanes) {
        const int64_t output = group * linear.panels() * kTileColumns + column + block;
        const Ints total = load(linear.total + output);
        const Floats scale = load(linear.scale + output), bias = load(linear.bias + column + block);
        for (int64_t row = 0; row < rows; ++row) {
          const int64_t place = first + start + row, cell = row * kTileColumns + block;
          const Ints sum = whole_sum(load(sums + cell), total, from.lowest[place * groups + group]);
          const Floats stepped = multiply(to_floats(sum), broadcast(from.steps[place * groups + group]));
          Floats value = multiply_then_add(stepped, scale, group ? load(values + cell) : bias);
          if (!is_last) {
            store(values + cell, value);
            continue;
          }
          store_first(columns - block, out + place * linear.outputs + column + block,
                      activate<then>(value));
        }
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
