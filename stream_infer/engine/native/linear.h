// The 8-bit linear layer: see `Int8Linear`, whose numbers these are.
#pragma once

#include <algorithm>
#include <cstdint>

#include "numbers.h"
#include "product.h"

namespace native {

// Pointers into the tensors of an Int8Linear; arrays by column are padded to a multiple of 64.
struct Linear {
  const int32_t* weight;  // [columns / 64][depth][64], 4 bytes of a column in each
  const int32_t* total;
  const float* scale;
  const float* bias;
  int64_t inputs;
  int64_t outputs;

  int64_t depth() const { return (inputs + 3) / 4; }
};

// Rows rounded to 256 levels between each one's least and greatest number.
struct Levels {
  uint8_t* levels;  // [rows][stride], counted from the row's lowest level
  int32_t* lowest;
  float* steps;
  int64_t stride;
};

class LevelsBuffer {
 public:
  Levels of(int64_t rows, int64_t inputs) {
    const int64_t stride = (inputs + kLanes - 1) / kLanes * kLanes;
    return {levels_.of(rows * stride), lowest_.of(rows), steps_.of(rows), stride};
  }

 private:
  Buffer<uint8_t> levels_;
  Buffer<int32_t> lowest_;
  Buffer<float> steps_;
};

inline void quantize(const float* row, int64_t size, int64_t place, const Levels& to) {
  __m512 least = _mm512_setzero_ps(), greatest = least;
  for (int64_t i = 0; i < size; i += kLanes) {
    const __m512 values = _mm512_maskz_loadu_ps(lanes_of(size - i), row + i);
    least = _mm512_min_ps(least, values);
    greatest = _mm512_max_ps(greatest, values);
  }
  const float low = _mm512_reduce_min_ps(least);
  const float step = std::max((_mm512_reduce_max_ps(greatest) - low) / 255.0f, 1e-32f);
  const float per_step = 1.0f / step;
  const int32_t lowest = _mm_cvtss_si32(_mm_set_ss(low * per_step));
  to.steps[place] = step;
  to.lowest[place] = lowest;
  const __m512 factor = _mm512_set1_ps(per_step);
  for (int64_t i = 0; i < size; i += kLanes) {
    const __m512 values = _mm512_maskz_loadu_ps(lanes_of(size - i), row + i);
    const __m512i levels = _mm512_cvtps_epi32(_mm512_mul_ps(values, factor));
    const __m512i counted = _mm512_sub_epi32(levels, _mm512_set1_epi32(lowest));
    auto* place_of_levels = reinterpret_cast<__m128i*>(to.levels + place * to.stride + i);
    _mm_storeu_si128(place_of_levels, _mm512_cvtusepi32_epi8(counted));
  }
}

enum class Then { kNothing, kGelu };

// The 64 columns from `column` on of rows first..first+count-1: out [rows][outputs].
template <Then then>
void apply_columns(const Linear& linear, const Levels& from, int64_t first, int64_t count, int64_t column,
                   float* out) {
  alignas(64) int32_t sums[kTileRows * kTileColumns];
  const int64_t stride = from.stride / 4;
  const auto* left = reinterpret_cast<const int32_t*>(from.levels) + first * stride;
  const int64_t columns = std::min(kTileColumns, linear.outputs - column);
  for_each_tile(count, [&](int64_t start, int64_t rows) {
    tile_of<Packed::kBytes>(rows, kTileBlocks)(left + start * stride, stride,
                                               linear.weight + column * linear.depth(), kTileColumns,
                                               linear.depth(), sums);
    for (int64_t block = 0; block < columns; block += kLanes) {
      const __m512i total = _mm512_loadu_si512(linear.total + column + block);
      const __m512 scale = load(linear.scale + column + block), bias = load(linear.bias + column + block);
      for (int64_t row = 0; row < rows; ++row) {
        const int64_t place = first + start + row;
        const __m512i counted = _mm512_load_si512(sums + row * kTileColumns + block);
        const __m512i below = _mm512_mullo_epi32(total, _mm512_set1_epi32(from.lowest[place]));
        const __m512 sum = _mm512_cvtepi32_ps(_mm512_add_epi32(counted, below));
        __m512 value = _mm512_mul_ps(sum, _mm512_set1_ps(from.steps[place]));
        value = multiply_then_add(value, scale, bias);
        if constexpr (then == Then::kGelu) value = gelu(value);
        _mm512_mask_storeu_ps(out + place * linear.outputs + column + block, lanes_of(columns - block), value);
      }
    }
  });
}

// out [rows][outputs] = the layer's outputs for rows [rows][inputs], by one thread.
template <Then then>
void apply(const Linear& linear, const float* rows, int64_t count, float* out, LevelsBuffer& buffer) {
  const Levels levels = buffer.of(count, linear.inputs);
  for (int64_t row = 0; row < count; ++row) quantize(rows + row * linear.inputs, linear.inputs, row, levels);
  for (int64_t column = 0; column < linear.outputs; column += kTileColumns) {
    apply_columns<then>(linear, levels, 0, count, column, out);
  }
}

}  // namespace native
