// Sixteen numbers at a time, in two registers of AVX2.
#pragma once

#include <immintrin.h>

#include <cstdint>

namespace native {

struct Floats {
  __m256 low, high;
};
struct Ints {
  __m256i low, high;
};
struct Doubles {  // eight
  __m256d low, high;
};
// How a layer's inputs are kept between rounding and multiplying: signed, and of each four the first, the
// third, the second and the fourth, because the weights' bytes become words in that order.
using Level = int16_t;

constexpr int64_t kTileBlocks = 1;  // a product's tile of 6 x 16 numbers takes 12 of 16 registers

inline __m256i ints_at(const int32_t* from) {
  return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from));
}
inline void put_ints(int32_t* to, __m256i value) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), value); }

inline Floats broadcast(float value) { return {_mm256_set1_ps(value), _mm256_set1_ps(value)}; }
inline Ints broadcast(int32_t value) { return {_mm256_set1_epi32(value), _mm256_set1_epi32(value)}; }
inline Floats load(const float* from) { return {_mm256_loadu_ps(from), _mm256_loadu_ps(from + 8)}; }
inline Ints load(const int32_t* from) { return {ints_at(from), ints_at(from + 8)}; }
inline __m256 floats_at(const Half* from) {
  return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from)));
}
inline Floats load(const Half* from) { return {floats_at(from), floats_at(from + 8)}; }
inline void store(float* to, Floats value) {
  _mm256_storeu_ps(to, value.low);
  _mm256_storeu_ps(to + 8, value.high);
}
inline void store(int32_t* to, Ints value) {
  put_ints(to, value.low);
  put_ints(to + 8, value.high);
}

// All bits of the first `count` lanes.
inline Ints lanes_of(int64_t count) {
  const __m256i bound = _mm256_set1_epi32(static_cast<int32_t>(count > 16 ? 16 : count));
  const __m256i places = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
  return {_mm256_cmpgt_epi32(bound, places),
          _mm256_cmpgt_epi32(bound, _mm256_add_epi32(places, _mm256_set1_epi32(8)))};
}

// The first `count` lanes; the others are zero.
inline Floats load_first(int64_t count, const float* from) {
  if (count >= 16) return load(from);
  const Ints lanes = lanes_of(count);
  return {_mm256_maskload_ps(from, lanes.low), _mm256_maskload_ps(from + 8, lanes.high)};
}
inline void store_first(int64_t count, float* to, Floats value) {
  if (count >= 16) return store(to, value);
  const Ints lanes = lanes_of(count);
  _mm256_maskstore_ps(to, lanes.low, value.low);
  _mm256_maskstore_ps(to + 8, lanes.high, value.high);
}
// The first `count` lanes of one, and the others of another.
inline Floats first_of(int64_t count, Floats value, Floats other) {
  const Ints lanes = lanes_of(count);
  return {_mm256_blendv_ps(other.low, value.low, _mm256_castsi256_ps(lanes.low)),
          _mm256_blendv_ps(other.high, value.high, _mm256_castsi256_ps(lanes.high))};
}

inline Floats add(Floats a, Floats b) { return {_mm256_add_ps(a.low, b.low), _mm256_add_ps(a.high, b.high)}; }
inline Floats subtract(Floats a, Floats b) {
  return {_mm256_sub_ps(a.low, b.low), _mm256_sub_ps(a.high, b.high)};
}
inline Floats multiply(Floats a, Floats b) {
  return {_mm256_mul_ps(a.low, b.low), _mm256_mul_ps(a.high, b.high)};
}
inline Floats divide(Floats a, Floats b) { return {_mm256_div_ps(a.low, b.low), _mm256_div_ps(a.high, b.high)}; }
inline Floats lesser(Floats a, Floats b) { return {_mm256_min_ps(a.low, b.low), _mm256_min_ps(a.high, b.high)}; }
inline Floats greater(Floats a, Floats b) {
  return {_mm256_max_ps(a.low, b.low), _mm256_max_ps(a.high, b.high)};
}
inline Floats magnitude(Floats value) {
  const __m256 sign = _mm256_set1_ps(-0.0f);
  return {_mm256_andnot_ps(sign, value.low), _mm256_andnot_ps(sign, value.high)};
}
// Where the sign is negative one, elsewhere the other.
inline Floats negative_of(Floats sign, Floats value, Floats other) {
  return {_mm256_blendv_ps(other.low, value.low, sign.low), _mm256_blendv_ps(other.high, value.high, sign.high)};
}
inline Floats round_to_whole(Floats value) {
  constexpr int kHow = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
  return {_mm256_round_ps(value.low, kHow), _mm256_round_ps(value.high, kHow)};
}
inline float least_of(Floats value) {
  const __m256 eight = _mm256_min_ps(value.low, value.high);
  __m128 four = _mm_min_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  four = _mm_min_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_min_ss(four, _mm_movehdup_ps(four)));
}
inline float greatest_of(Floats value) {
  const __m256 eight = _mm256_max_ps(value.low, value.high);
  __m128 four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  four = _mm_max_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_max_ss(four, _mm_movehdup_ps(four)));
}

inline Ints add(Ints a, Ints b) { return {_mm256_add_epi32(a.low, b.low), _mm256_add_epi32(a.high, b.high)}; }
inline Ints subtract(Ints a, Ints b) {
  return {_mm256_sub_epi32(a.low, b.low), _mm256_sub_epi32(a.high, b.high)};
}
inline Ints multiply(Ints a, Ints b) {
  return {_mm256_mullo_epi32(a.low, b.low), _mm256_mullo_epi32(a.high, b.high)};
}
template <int bits>
inline Ints shift_left(Ints value) {
  return {_mm256_slli_epi32(value.low, bits), _mm256_slli_epi32(value.high, bits)};
}
inline int32_t sum_of(Ints value) {
  const __m256i eight = _mm256_add_epi32(value.low, value.high);
  __m128i four = _mm_add_epi32(_mm256_castsi256_si128(eight), _mm256_extracti128_si256(eight, 1));
  four = _mm_add_epi32(four, _mm_shuffle_epi32(four, 0x4e));
  return _mm_cvtsi128_si32(_mm_add_epi32(four, _mm_shuffle_epi32(four, 0xb1)));
}

inline Ints to_ints(Floats value) { return {_mm256_cvtps_epi32(value.low), _mm256_cvtps_epi32(value.high)}; }
inline Floats to_floats(Ints value) { return {_mm256_cvtepi32_ps(value.low), _mm256_cvtepi32_ps(value.high)}; }
inline Ints bits_of(Floats value) { return {_mm256_castps_si256(value.low), _mm256_castps_si256(value.high)}; }
inline Floats floats_of_bits(Ints value) {
  return {_mm256_castsi256_ps(value.low), _mm256_castsi256_ps(value.high)};
}

// The low words, in order.
inline __m256i words_of(Ints value) {
  return _mm256_permute4x64_epi64(_mm256_packs_epi32(value.low, value.high), 0xd8);
}
inline void store_words(int16_t* to, Ints value) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), words_of(value));
}
// Of 256 levels from the lowest one on.
inline void store_levels(Level* to, Ints value, int32_t lowest) {
  const __m256i greatest = _mm256_set1_epi16(static_cast<int16_t>(lowest + 255));
  const __m256i words = _mm256_min_epi16(words_of(value), greatest);
  const __m256i order = _mm256_broadcastsi128_si256(
      _mm_setr_epi8(0, 1, 4, 5, 2, 3, 6, 7, 8, 9, 12, 13, 10, 11, 14, 15));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), _mm256_shuffle_epi8(words, order));
}
// A sum of products of levels, whose weights add up to `total`: here levels are what they are.
template <typename Sum>
Sum whole_sum(Sum sum, Sum total, int32_t lowest) {
  static_cast<void>(total), static_cast<void>(lowest);
  return sum;
}
// In each lane the low word of one, and above it that of another.
inline Ints interleave_words(Ints low, Ints high) {
  const Ints above = shift_left<16>(high);
  return {_mm256_blend_epi16(low.low, above.low, 0xaa), _mm256_blend_epi16(low.high, above.high, 0xaa)};
}

inline Doubles no_doubles() { return {_mm256_setzero_pd(), _mm256_setzero_pd()}; }
inline Doubles broadcast(double value) { return {_mm256_set1_pd(value), _mm256_set1_pd(value)}; }
inline Doubles doubles_of(__m256 value) {
  return {_mm256_cvtps_pd(_mm256_castps256_ps128(value)), _mm256_cvtps_pd(_mm256_extractf128_ps(value, 1))};
}
inline Doubles lower_half(Floats value) { return doubles_of(value.low); }
inline Doubles upper_half(Floats value) { return doubles_of(value.high); }
inline __m256 floats_of(Doubles value) {
  return _mm256_set_m128(_mm256_cvtpd_ps(value.high), _mm256_cvtpd_ps(value.low));
}
inline Floats join_halves(Doubles low, Doubles high) { return {floats_of(low), floats_of(high)}; }
inline Doubles add(Doubles a, Doubles b) { return {_mm256_add_pd(a.low, b.low), _mm256_add_pd(a.high, b.high)}; }
inline Doubles multiply(Doubles a, Doubles b) {
  return {_mm256_mul_pd(a.low, b.low), _mm256_mul_pd(a.high, b.high)};
}
inline double sum_of(Doubles value) {
  const __m256d four = _mm256_add_pd(value.low, value.high);
  const __m128d two = _mm_add_pd(_mm256_castpd256_pd128(four), _mm256_extractf128_pd(four, 1));
  return _mm_cvtsd_f64(_mm_add_sd(two, _mm_unpackhi_pd(two, two)));
}

}  // namespace native
