// Exact products of small integers: tiles of a matrix product, each in one go and in registers.
#pragma once

#include <immintrin.h>

#include <cstdint>

namespace native {

constexpr int64_t kLanes = 16;      // numbers of 32 bits in a register
constexpr int64_t kTileRows = 6;    // 6 rows of 4 registers are all that stay in registers
constexpr int64_t kTileBlocks = 4;
constexpr int64_t kTileColumns = kLanes * kTileBlocks;

// What the 32 bits of a factor hold: 4 bytes (left unsigned, right signed), or 2 signed words.
enum class Packed { kBytes, kWords };

template <Packed packed>
inline __m512i add_product(__m512i sum, __m512i left, __m512i right) {
  if constexpr (packed == Packed::kBytes) {
    return _mm512_dpbusd_epi32(sum, left, right);
  } else {
    return _mm512_dpwssd_epi32(sum, left, right);
  }
}

// sums [rows][64] = left [rows][depth] x right [depth][16 * blocks], where depth counts factors of 32 bits.
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

using MultiplyTile = void (*)(const int32_t*, int64_t, const int32_t*, int64_t, int64_t, int32_t*);

// The tile of so many rows and blocks, each counted from 1.
template <Packed packed, int rows>
constexpr MultiplyTile kRowTiles[kTileBlocks] = {
    multiply_tile<packed, rows, 1>, multiply_tile<packed, rows, 2>, multiply_tile<packed, rows, 3>,
    multiply_tile<packed, rows, 4>};

template <Packed packed>
inline MultiplyTile tile_of(int64_t rows, int64_t blocks) {
  static constexpr const MultiplyTile* kTiles[kTileRows] = {
      kRowTiles<packed, 1>, kRowTiles<packed, 2>, kRowTiles<packed, 3>,
      kRowTiles<packed, 4>, kRowTiles<packed, 5>, kRowTiles<packed, 6>};
  return kTiles[rows - 1][blocks - 1];
}

// Calls visit(first row, rows) for tiles of almost equal height that cover `rows`.
template <class Visit>
inline void for_each_tile(int64_t rows, Visit visit) {
  const int64_t tiles = (rows + kTileRows - 1) / kTileRows;
  for (int64_t tile = 0; tile < tiles; ++tile) {
    const int64_t first = rows * tile / tiles;
    visit(first, rows * (tile + 1) / tiles - first);
  }
}

}  // namespace native
