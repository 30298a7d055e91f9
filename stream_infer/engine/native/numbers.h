// Functions of float32 that the plain path computes by the same operations.
//
// Every operation rounds by itself (the compiler must not contract them), so that the results are those
// of the same operations in torch, to the bit.
#pragma once

#include "lanes.h"

namespace native {

inline Floats multiply_then_add(Floats value, Floats factor, Floats term) {
  return add(multiply(value, factor), term);
}

template <int count>
inline Floats polynomial(const float (&coefficients)[count], Floats x) {
  Floats sum = broadcast(coefficients[count - 1]);
#pragma GCC unroll 16
  for (int power = count - 2; power >= 0; --power) {
    sum = multiply_then_add(sum, x, broadcast(coefficients[power]));
  }
  return sum;
}

// x times the normal distribution's share below x; see `exact.gelu`.
inline Floats gelu(Floats x) {
  static constexpr float kCoefficients[] = {
      0.39870839025852456f,   -0.0659770467727508f,    0.009580551387219785f,
      -0.0010362293792091997f, 8.120650473780027e-05f, -4.4314285300906295e-06f,
      1.580136844274647e-07f,  -3.2836052801716694e-09f, 2.999678915995986e-11f};
  const Floats near = greater(lesser(x, broadcast(4.5f)), broadcast(-4.5f));
  const Floats odd = multiply(polynomial(kCoefficients, multiply(near, near)), near);
  return multiply(add(odd, broadcast(0.5f)), x);
}

// 2 to the power of x, from -100 to 0; see `exact.power_of_two`.
inline Floats power_of_two(Floats x) {
  static constexpr float kCoefficients[] = {1.0f, 0.693124107f, 0.240241042f, 0.0559068767f, 0.0095827006f};
  const Floats whole = round_to_whole(x);
  const Floats rest = polynomial(kCoefficients, subtract(x, whole));
  return floats_of_bits(add(bits_of(rest), shift_left<23>(to_ints(whole))));
}

// 1 / (1 + e to the power of -x); see `exact.sigmoid`.
inline Floats sigmoid(Floats x) {
  const Floats below = multiply(magnitude(x), broadcast(-1.44269504f));
  const Floats power = power_of_two(greater(below, broadcast(-100.0f)));
  const Floats one = broadcast(1.0f);
  return divide(negative_of(x, power, one), add(power, one));
}

inline Floats silu(Floats x) { return multiply(x, sigmoid(x)); }

}  // namespace native
