// One tile of a product in registers of AVX-512, whose instructions multiply and add up at once.
#pragma once

#include <immintrin.h>

#include <cstdint>
#include <cstring>

namespace native {

template <Packed packed>
inline __m512i add_product(__m512i sum, __m512i left, __m512i right) {
  if constexpr (packed == Packed::kBytes) {
    return _mm512_dpbusd_epi32(sum, left, right);
  } else {
    return _mm512_dpwssd_epi32(sum, left, right);
  }
}

// Levels as `multiply_row` reads them.
inline void sort_levels(const Level* levels, int64_t count, Level* to) { std::memcpy(to, levels, count); }

// The product of a row of sorted levels and a row of weights.
inline int32_t multiply_row(const Level* levels, const int8_t* weights, int64_t count) {
  __m512i sum = _mm512_setzero_si512();
  for (int64_t i = 0; i < count; i += 64) {
    sum = _mm512_dpbusd_epi32(sum, _mm512_loadu_si512(levels + i), _mm512_loadu_si512(weights + i));
  }
  return _mm512_reduce_add_epi32(sum);
}

template <Packed packed, int rows, int blocks>
void multiply_tile(const int32_t* left, int64_t left_stride, const int32_t* right, int64_t right_stride,
                   int64_t depth, int32_t* sums) {
  __m512i sum[rows][blocks];
#pragma GCC unroll 6
  for (int row = 0; row < rows; ++row) {
#pragma GCC unroll 4
    for (int block = 0; block < blocks; ++block) sum[row][block] = _mm512_setzero_si512();
  }
  for (int64_t place = 0; place < depth; ++place) {
    __m512i factors[blocks];
#pragma GCC unroll 4
    for (int block = 0; block < blocks; ++block) {
      factors[block] = _mm512_loadu_si512(right + place * right_stride + block * kLanes);
    }
#pragma GCC unroll 6
    for (int row = 0; row < rows; ++row) {
      const __m512i factor = _mm512_set1_epi32(left[row * left_stride + place]);
#pragma GCC unroll 4
      for (int block = 0; block < blocks; ++block) {
        sum[row][block] = add_product<packed>(sum[row][block], factor, factors[block]);
      }
    }
  }
#pragma GCC unroll 6
  for (int row = 0; row < rows; ++row) {
#pragma GCC unroll 4
    for (int block = 0; block < blocks; ++block) {
      _mm512_store_si512(sums + row * kTileColumns + block * kLanes, sum[row][block]);
    }
  }
}

}  // namespace native
