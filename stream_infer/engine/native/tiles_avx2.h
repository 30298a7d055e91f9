// One tile of a product in registers of AVX2, which multiplies words: pairs of bytes could overflow.
#pragma once

#include <immintrin.h>

#include <cstdint>

namespace native {

struct Factors {
  __m256i low, high;
};

// Adds to 16 sums the products of one pair of words with 16 pairs. In words of our own, because compilers
// move loads and products ahead until they run out of registers for the sums (a fifth slower, GCC 12).
[[gnu::always_inline]] inline void add_products(__m256i& low, __m256i& high, const int32_t& left, const Factors& right) {
  __m256i factor, product;
  asm("vpbroadcastd %[left], %[factor]\n\t"
      "vpmaddwd %[right_low], %[factor], %[product]\n\t"
      "vpaddd %[product], %[low], %[low]\n\t"
      "vpmaddwd %[right_high], %[factor], %[factor]\n\t"
      "vpaddd %[factor], %[high], %[high]"
      : [low] "+x"(low), [high] "+x"(high), [factor] "=&x"(factor), [product] "=&x"(product)
      : [left] "m"(left), [right_low] "x"(right.low), [right_high] "x"(right.high));
}

inline Factors factors_at(const int32_t* from) {
  const auto* place = reinterpret_cast<const __m256i*>(from);
  return {_mm256_loadu_si256(place), _mm256_loadu_si256(place + 1)};
}

inline __m256i words_of_even_bytes(__m256i bytes) { return _mm256_srai_epi16(_mm256_slli_epi16(bytes, 8), 8); }
inline __m256i words_of_odd_bytes(__m256i bytes) { return _mm256_srai_epi16(bytes, 8); }

// Of each four bytes the first and the third, as words.
inline Factors even_bytes(const int32_t* from) {
  const Factors bytes = factors_at(from);
  return {words_of_even_bytes(bytes.low), words_of_even_bytes(bytes.high)};
}

// Of each four bytes the second and the fourth, as words.
inline Factors odd_bytes(const int32_t* from) {
  asm volatile("" ::: "memory");  // to read them anew is cheaper than to keep them in registers
  const Factors bytes = factors_at(from);
  return {words_of_odd_bytes(bytes.low), words_of_odd_bytes(bytes.high)};
}

// Adds to each row of sums the products of its pair of words.
template <int rows>
[[gnu::always_inline]] inline void add_all(__m256i (&sums)[rows][2], const int32_t* left, int64_t left_stride,
                                           const Factors& right) {
#pragma GCC unroll 6
  for (int row = 0; row < rows; ++row) add_products(sums[row][0], sums[row][1], left[row * left_stride], right);
}

// Levels as `multiply_row` reads them: of each 32 those that meet even bytes, then those that meet odd ones.
inline void sort_levels(const Level* levels, int64_t count, Level* to) {
  for (int64_t i = 0; i < count; i += 32, levels += 32, to += 32) {
    for (int64_t four = 0; four < 8; ++four) {
      for (int64_t word = 0; word < 2; ++word) {
        to[2 * four + word] = levels[4 * four + word];
        to[16 + 2 * four + word] = levels[4 * four + 2 + word];
      }
    }
  }
}

// The product of a row of sorted levels and a row of weights.
inline int32_t multiply_row(const Level* levels, const int8_t* weights, int64_t count) {
  __m256i even = _mm256_setzero_si256(), odd = even;
  for (int64_t i = 0; i < count; i += 32) {
    const __m256i bytes = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(weights + i));
    const auto* own = reinterpret_cast<const __m256i*>(levels + i);
    even = _mm256_add_epi32(even, _mm256_madd_epi16(words_of_even_bytes(bytes), _mm256_loadu_si256(own)));
    odd = _mm256_add_epi32(odd, _mm256_madd_epi16(words_of_odd_bytes(bytes), _mm256_loadu_si256(own + 1)));
  }
  return sum_of({even, odd});
}

template <Packed packed, int rows, int blocks>
void multiply_tile(const int32_t* left, int64_t left_stride, const int32_t* right, int64_t right_stride,
                   int64_t depth, int32_t* sums) {
  static_assert(blocks == 1);
  __m256i sum[rows][2];
#pragma GCC unroll 6
  for (int row = 0; row < rows; ++row) sum[row][0] = sum[row][1] = _mm256_setzero_si256();
  for (int64_t place = 0; place < depth; ++place) {
    const int32_t* from = right + place * right_stride;
    if constexpr (packed == Packed::kBytes) {
      add_all<rows>(sum, left + 2 * place, left_stride, even_bytes(from));
      add_all<rows>(sum, left + 2 * place + 1, left_stride, odd_bytes(from));
    } else {
      add_all<rows>(sum, left + place, left_stride, factors_at(from));
    }
  }
#pragma GCC unroll 6
  for (int row = 0; row < rows; ++row) {
    auto* to = reinterpret_cast<__m256i*>(sums + row * kTileColumns);
    _mm256_store_si256(to, sum[row][0]);
    _mm256_store_si256(to + 1, sum[row][1]);
  }
}

}  // namespace native
