// Exact products of small integers: tiles of a matrix product, each in one go and in registers.
#pragma once

#include <array>
#include <cstdint>
#include <utility>

#include "lanes.h"

namespace native {

constexpr int64_t kTileRows = 6;
constexpr int64_t kTileColumns = kLanes * kTileBlocks;

// What the 32 bits of a right factor hold: 4 signed bytes, or 2 signed words. The left one holds words in
// the same order, or for bytes what `store_levels` writes.
enum class Packed { kBytes, kWords };

// sums [rows][kTileColumns] = left [rows][depth] x right [depth][16 * blocks], where depth counts factors of 32 bits.
template <Packed packed, int rows, int blocks>
void multiply_tile(const int32_t* left, int64_t left_stride, const int32_t* right, int64_t right_stride,
                   int64_t depth, int32_t* sums);

}  // namespace native

#ifdef __AVX512VNNI__
#include "tiles_avx512.h"
#else
#include "tiles_avx2.h"
#endif

namespace native {

using MultiplyTile = void (*)(const int32_t*, int64_t, const int32_t*, int64_t, int64_t, int32_t*);

template <Packed packed, int rows, int... blocks>
constexpr std::array<MultiplyTile, sizeof...(blocks)> row_of_tiles(std::integer_sequence<int, blocks...>) {
  return {multiply_tile<packed, rows, blocks + 1>...};
}

template <Packed packed, int... rows>
constexpr std::array<std::array<MultiplyTile, kTileBlocks>, sizeof...(rows)> tiles(
    std::integer_sequence<int, rows...>) {
  return {row_of_tiles<packed, rows + 1>(std::make_integer_sequence<int, kTileBlocks>())...};
}

// The tile of so many rows and blocks, each counted from 1.
template <Packed packed>
inline MultiplyTile tile_of(int64_t rows, int64_t blocks) {
  static constexpr auto kTiles = tiles<packed>(std::make_integer_sequence<int, kTileRows>());
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
