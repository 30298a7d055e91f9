// Vectors of float32, and the functions of them that the plain path computes by the same operations.
//
// Every operation rounds by itself (the compiler must not contract them), so that the results are those
// of the same operations in torch, to the bit.
#pragma once

#include <immintrin.h>

#include <cstdint>
#include <cstdlib>
#include <memory>

#include "product.h"

namespace native {

inline __mmask16 lanes_of(int64_t count) {
  return count >= kLanes ? 0xffff : static_cast<__mmask16>((1u << count) - 1);
}

inline __m512 load(const float* from) { return _mm512_loadu_ps(from); }

inline __m512 multiply_then_add(__m512 value, __m512 factor, __m512 term) {
  return _mm512_add_ps(_mm512_mul_ps(value, factor), term);
}

template <int count>
inline __m512 polynomial(const float (&coefficients)[count], __m512 x) {
  __m512 sum = _mm512_set1_ps(coefficients[count - 1]);
#pragma GCC unroll 16
  for (int power = count - 2; power >= 0; --power) {
    sum = multiply_then_add(sum, x, _mm512_set1_ps(coefficients[power]));
  }
  return sum;
}

// x times the normal distribution's share below x; see `exact.gelu`.
inline __m512 gelu(__m512 x) {
  static constexpr float kCoefficients[] = {
      0.39870839025852456f,   -0.0659770467727508f,    0.009580551387219785f,
      -0.0010362293792091997f, 8.120650473780027e-05f, -4.4314285300906295e-06f,
      1.580136844274647e-07f,  -3.2836052801716694e-09f, 2.999678915995986e-11f};
  const __m512 near = _mm512_max_ps(_mm512_min_ps(x, _mm512_set1_ps(4.5f)), _mm512_set1_ps(-4.5f));
  const __m512 odd = _mm512_mul_ps(polynomial(kCoefficients, _mm512_mul_ps(near, near)), near);
  return _mm512_mul_ps(_mm512_add_ps(odd, _mm512_set1_ps(0.5f)), x);
}

// 2 to the power of x, from -100 to 0; see `exact.power_of_two`.
inline __m512 power_of_two(__m512 x) {
  static constexpr float kCoefficients[] = {1.0f, 0.693124107f, 0.240241042f, 0.0559068767f, 0.0095827006f};
  const __m512 whole = _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  const __m512 rest = polynomial(kCoefficients, _mm512_sub_ps(x, whole));
  const __m512i exponent = _mm512_slli_epi32(_mm512_cvtps_epi32(whole), 23);
  return _mm512_castsi512_ps(_mm512_add_epi32(_mm512_castps_si512(rest), exponent));
}

inline __m512d lower_half(__m512 value) { return _mm512_cvtps_pd(_mm512_castps512_ps256(value)); }
inline __m512d upper_half(__m512 value) { return _mm512_cvtps_pd(_mm512_extractf32x8_ps(value, 1)); }

// Memory that grows and is used again.
template <class T>
class Buffer {
 public:
  T* of(int64_t count) {
    if (count > count_) {
      const int64_t bytes = (count * static_cast<int64_t>(sizeof(T)) + 63) / 64 * 64;
      memory_.reset(static_cast<T*>(std::aligned_alloc(64, bytes)));
      count_ = count;
    }
    return memory_.get();
  }

 private:
  struct Free {
    void operator()(T* memory) const { std::free(memory); }
  };
  std::unique_ptr<T, Free> memory_;
  int64_t count_ = 0;
};

}  // namespace native
