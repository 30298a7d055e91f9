// Sixteen numbers at a time, in a register of AVX-512.
#pragma once

#include <immintrin.h>

#include <cstdint>

namespace native {

using Floats = __m512;
using Ints = __m512i;
using Doubles = __m512d;  // eight
// How a layer's inputs are kept between rounding and multiplying: in order, counted from the lowest level.
using Level = uint8_t;

constexpr int64_t kTileBlocks = 4;  // a product's tile of 6 x 64 numbers takes 24 of 32 registers

inline __mmask16 lanes_of(int64_t count) {
  return count >= 16 ? 0xffff : count <= 0 ? 0 : static_cast<__mmask16>((1u << count) - 1);
}

inline Floats broadcast(float value) { return _mm512_set1_ps(value); }
inline Ints broadcast(int32_t value) { return _mm512_set1_epi32(value); }
inline Floats load(const float* from) { return _mm512_loadu_ps(from); }
inline Ints load(const int32_t* from) { return _mm512_loadu_si512(from); }
inline Floats load(const Half* from) {
  return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)));
}
inline void store(float* to, Floats value) { _mm512_storeu_ps(to, value); }
inline void store(int32_t* to, Ints value) { _mm512_storeu_si512(to, value); }

// The first `count` lanes; the others are zero.
inline Floats load_first(int64_t count, const float* from) {
  return _mm512_maskz_loadu_ps(lanes_of(count), from);
}
inline void store_first(int64_t count, float* to, Floats value) {
  _mm512_mask_storeu_ps(to, lanes_of(count), value);
}
// The first `count` lanes of one, and the others of another.
inline Floats first_of(int64_t count, Floats value, Floats other) {
  return _mm512_mask_blend_ps(lanes_of(count), other, value);
}

inline Floats add(Floats a, Floats b) { return _mm512_add_ps(a, b); }
inline Floats subtract(Floats a, Floats b) { return _mm512_sub_ps(a, b); }
inline Floats multiply(Floats a, Floats b) { return _mm512_mul_ps(a, b); }
inline Floats divide(Floats a, Floats b) { return _mm512_div_ps(a, b); }
inline Floats lesser(Floats a, Floats b) { return _mm512_min_ps(a, b); }
inline Floats greater(Floats a, Floats b) { return _mm512_max_ps(a, b); }
inline Floats magnitude(Floats value) { return _mm512_abs_ps(value); }
// Where the sign is negative one, elsewhere the other.
inline Floats negative_of(Floats sign, Floats value, Floats other) {
  return _mm512_mask_blend_ps(_mm512_movepi32_mask(_mm512_castps_si512(sign)), other, value);
}
inline Floats round_to_whole(Floats value) {
  return _mm512_roundscale_ps(value, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
inline float least_of(Floats value) { return _mm512_reduce_min_ps(value); }
inline float greatest_of(Floats value) { return _mm512_reduce_max_ps(value); }

inline Ints add(Ints a, Ints b) { return _mm512_add_epi32(a, b); }
inline Ints subtract(Ints a, Ints b) { return _mm512_sub_epi32(a, b); }
inline Ints multiply(Ints a, Ints b) { return _mm512_mullo_epi32(a, b); }
template <int bits>
inline Ints shift_left(Ints value) {
  return _mm512_slli_epi32(value, bits);
}
inline int32_t sum_of(Ints value) { return _mm512_reduce_add_epi32(value); }

inline Ints to_ints(Floats value) { return _mm512_cvtps_epi32(value); }
inline Floats to_floats(Ints value) { return _mm512_cvtepi32_ps(value); }
inline Ints bits_of(Floats value) { return _mm512_castps_si512(value); }
inline Floats floats_of_bits(Ints value) { return _mm512_castsi512_ps(value); }

// The low words of numbers that words hold.
inline void store_words(int16_t* to, Ints value) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), _mm512_cvtepi32_epi16(value));
}
// Of 256 levels from the lowest one on.
inline void store_levels(Level* to, Ints value, int32_t lowest) {
  const __m512i counted = _mm512_sub_epi32(value, _mm512_set1_epi32(lowest));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(to), _mm512_cvtusepi32_epi8(counted));
}
// A sum of products of levels, whose weights add up to `total`: what counting them took away comes back.
inline Ints whole_sum(Ints sum, Ints total, int32_t lowest) {
  return add(sum, multiply(total, broadcast(lowest)));
}
inline int32_t whole_sum(int32_t sum, int32_t total, int32_t lowest) { return sum + total * lowest; }
// In each lane the low word of one, and above it that of another.
inline Ints interleave_words(Ints low, Ints high) {
  return _mm512_mask_blend_epi16(0xaaaaaaaau, low, shift_left<16>(high));
}

inline Doubles no_doubles() { return _mm512_setzero_pd(); }
inline Doubles broadcast(double value) { return _mm512_set1_pd(value); }
inline Doubles lower_half(Floats value) { return _mm512_cvtps_pd(_mm512_castps512_ps256(value)); }
inline Doubles upper_half(Floats value) { return _mm512_cvtps_pd(_mm512_extractf32x8_ps(value, 1)); }
inline Floats join_halves(Doubles low, Doubles high) {
  return _mm512_insertf32x8(_mm512_castps256_ps512(_mm512_cvtpd_ps(low)), _mm512_cvtpd_ps(high), 1);
}
inline Doubles add(Doubles a, Doubles b) { return _mm512_add_pd(a, b); }
inline Doubles multiply(Doubles a, Doubles b) { return _mm512_mul_pd(a, b); }
inline double sum_of(Doubles value) { return _mm512_reduce_add_pd(value); }

}  // namespace native
