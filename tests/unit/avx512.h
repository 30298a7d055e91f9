// What the kernels use of AVX-512, in plain C++ on the names of its intrinsics: their numbers can be
// checked where the processor has none of it. To be included before everything else.
#pragma once

#include <immintrin.h>

#include <cmath>
#include <cstdint>
#include <cstring>

namespace avx512 {

template <typename Number, int kCount>
struct Register {
  Number of[kCount];
};
using Floats = Register<float, 16>;
using Doubles = Register<double, 8>;
using Ints = Register<int32_t, 16>;

}  // namespace avx512

// Not beside the types: there the kernels' own functions on them would meet these.
namespace avx512::intrinsics {

template <typename To, typename From>
To cast(const From& from) {
  static_assert(sizeof(To) == sizeof(From), "the bits stay the same");
  To to;
  std::memcpy(&to, &from, sizeof(To));
  return to;
}
template <typename To>
To load(const void* from) {
  To to;
  std::memcpy(&to, from, sizeof(To));
  return to;
}
template <typename From>
void store(void* to, const From& from) {
  std::memcpy(to, &from, sizeof(From));
}
template <typename To, typename Number>
To all(Number value) {
  To to;
  for (auto& each : to.of) each = value;
  return to;
}
// A register of what `make` returns of each place.
template <typename To, typename Make>
To by_place(Make make) {
  To to;
  for (int place = 0; place < static_cast<int>(sizeof(to.of) / sizeof(to.of[0])); ++place) to.of[place] = make(place);
  return to;
}
template <typename Numbers, typename Operation>
Numbers pairwise(const Numbers& a, const Numbers& b, Operation operation) {
  return by_place<Numbers>([&](int place) { return operation(a.of[place], b.of[place]); });
}

inline bool is_set(uint32_t mask, int place) { return mask >> place & 1; }
inline int32_t wrapped(int64_t value) { return static_cast<int32_t>(static_cast<uint32_t>(value)); }

inline Floats add(Floats a, Floats b) {
  return pairwise(a, b, [](float x, float y) { return x + y; });
}
inline Doubles add(Doubles a, Doubles b) {
  return pairwise(a, b, [](double x, double y) { return x + y; });
}
inline Ints add(Ints a, Ints b) {
  return pairwise(a, b, [](int64_t x, int64_t y) { return wrapped(x + y); });
}
inline Floats subtract(Floats a, Floats b) {
  return pairwise(a, b, [](float x, float y) { return x - y; });
}
inline Ints subtract(Ints a, Ints b) {
  return pairwise(a, b, [](int64_t x, int64_t y) { return wrapped(x - y); });
}
inline Floats multiply(Floats a, Floats b) {
  return pairwise(a, b, [](float x, float y) { return x * y; });
}
inline Doubles multiply(Doubles a, Doubles b) {
  return pairwise(a, b, [](double x, double y) { return x * y; });
}
inline Ints multiply(Ints a, Ints b) {
  return pairwise(a, b, [](int64_t x, int64_t y) { return wrapped(x * y); });
}
inline Floats divide(Floats a, Floats b) {
  return pairwise(a, b, [](float x, float y) { return x / y; });
}
// Where they are equal, or one is no number, the second.
inline Floats lesser(Floats a, Floats b) {
  return pairwise(a, b, [](float x, float y) { return x < y ? x : y; });
}
inline Floats greater(Floats a, Floats b) {
  return pairwise(a, b, [](float x, float y) { return x > y ? x : y; });
}
inline Floats magnitude(Floats a) {
  return by_place<Floats>([&](int place) { return std::fabs(a.of[place]); });
}
inline Floats round_to_whole(Floats a, int) {
  return by_place<Floats>([&](int place) { return std::nearbyint(a.of[place]); });
}
inline Ints shift_left(Ints a, int bits) {
  return by_place<Ints>([&](int place) { return wrapped(static_cast<int64_t>(a.of[place]) << bits); });
}

inline Floats blend(uint32_t mask, Floats a, Floats b) {
  return by_place<Floats>([&](int place) { return is_set(mask, place) ? b.of[place] : a.of[place]; });
}
inline Ints blend_words(uint32_t mask, Ints a, Ints b) {
  using Words = Register<int16_t, 32>;
  const auto x = cast<Words>(a), y = cast<Words>(b);
  return cast<Ints>(by_place<Words>([&](int place) { return is_set(mask, place) ? y.of[place] : x.of[place]; }));
}
inline uint16_t signs(Ints a) {
  uint32_t mask = 0;
  for (int place = 0; place < 16; ++place) mask |= static_cast<uint32_t>(a.of[place] < 0) << place;
  return static_cast<uint16_t>(mask);
}
// Nothing is touched where the mask has no bit.
inline Floats load_some(uint32_t mask, const float* from) {
  return by_place<Floats>([&](int place) { return is_set(mask, place) ? from[place] : 0.0f; });
}
inline void store_some(float* to, uint32_t mask, Floats a) {
  for (int place = 0; place < 16; ++place) {
    if (is_set(mask, place)) to[place] = a.of[place];
  }
}

inline float least(Floats a) {
  float found = a.of[0];
  for (const float each : a.of) found = each < found ? each : found;
  return found;
}
inline float greatest(Floats a) {
  float found = a.of[0];
  for (const float each : a.of) found = each > found ? each : found;
  return found;
}
inline int32_t sum(Ints a) {
  int64_t found = 0;
  for (const int32_t each : a.of) found += each;
  return wrapped(found);
}
// Halves are added to each other, as the compilers do it.
inline double sum(Doubles a) {
  double half[4];
  for (int place = 0; place < 4; ++place) half[place] = a.of[place] + a.of[place + 4];
  return (half[0] + half[2]) + (half[1] + half[3]);
}

inline Ints to_ints(Floats a) {
  return by_place<Ints>([&](int place) { return _mm_cvtss_si32(_mm_set_ss(a.of[place])); });
}
inline Floats to_floats(Ints a) {
  return by_place<Floats>([&](int place) { return static_cast<float>(a.of[place]); });
}
inline Floats of_halves(__m256i halves) {
  const auto bits = cast<Register<uint16_t, 16>>(halves);
  return by_place<Floats>([&](int place) { return _cvtsh_ss(bits.of[place]); });
}
inline Doubles to_doubles(__m256 a) {
  const auto floats = cast<Register<float, 8>>(a);
  return by_place<Doubles>([&](int place) { return static_cast<double>(floats.of[place]); });
}
inline __m256 to_floats(Doubles a) {
  using Half = Register<float, 8>;
  return cast<__m256>(by_place<Half>([&](int place) { return static_cast<float>(a.of[place]); }));
}
inline __m256i low_words(Ints a) {
  using Words = Register<int16_t, 16>;
  return cast<__m256i>(by_place<Words>([&](int place) { return static_cast<int16_t>(a.of[place]); }));
}
// Unsigned, and at most 255.
inline __m128i to_bytes(Ints a) {
  using Bytes = Register<uint8_t, 16>;
  return cast<__m128i>(by_place<Bytes>([&](int place) {
    const auto value = static_cast<uint32_t>(a.of[place]);
    return static_cast<uint8_t>(value > 255 ? 255 : value);
  }));
}
inline __m256 eight_of(Floats a, int half) { return load<__m256>(a.of + 8 * half); }
inline Floats with_eight(Floats a, __m256 eight, int half) {
  store(a.of + 8 * half, eight);
  return a;
}
inline Floats from_eight(__m256 eight) { return with_eight(all<Floats>(0.0f), eight, 0); }

// To each sum those of the products of its four bytes: unsigned ones, and signed ones.
inline Ints add_bytes(Ints sums, Ints a, Ints b) {
  const auto x = cast<Register<uint8_t, 64>>(a);
  const auto y = cast<Register<int8_t, 64>>(b);
  return by_place<Ints>([&](int place) {
    int64_t found = sums.of[place];
    for (int byte = 4 * place; byte < 4 * place + 4; ++byte) found += int64_t{x.of[byte]} * y.of[byte];
    return wrapped(found);
  });
}
// The same of its two signed words.
inline Ints add_words(Ints sums, Ints a, Ints b) {
  const auto x = cast<Register<int16_t, 32>>(a), y = cast<Register<int16_t, 32>>(b);
  return by_place<Ints>([&](int place) {
    int64_t found = sums.of[place];
    for (int word = 2 * place; word < 2 * place + 2; ++word) found += int64_t{x.of[word]} * y.of[word];
    return wrapped(found);
  });
}

}  // namespace avx512::intrinsics

#define __AVX512VNNI__ 1
#define __m512 avx512::Floats
#define __m512d avx512::Doubles
#define __m512i avx512::Ints
#define _mm512_abs_ps avx512::intrinsics::magnitude
#define _mm512_add_epi32 avx512::intrinsics::add
#define _mm512_add_pd avx512::intrinsics::add
#define _mm512_add_ps avx512::intrinsics::add
#define _mm512_castps256_ps512 avx512::intrinsics::from_eight
#define _mm512_castps512_ps256(a) avx512::intrinsics::eight_of(a, 0)
#define _mm512_castps_si512 avx512::intrinsics::cast<avx512::Ints>
#define _mm512_castsi512_ps avx512::intrinsics::cast<avx512::Floats>
#define _mm512_cvtepi32_epi16 avx512::intrinsics::low_words
#define _mm512_cvtepi32_ps avx512::intrinsics::to_floats
#define _mm512_cvtpd_ps avx512::intrinsics::to_floats
#define _mm512_cvtph_ps avx512::intrinsics::of_halves
#define _mm512_cvtps_epi32 avx512::intrinsics::to_ints
#define _mm512_cvtps_pd avx512::intrinsics::to_doubles
#define _mm512_cvtusepi32_epi8 avx512::intrinsics::to_bytes
#define _mm512_div_ps avx512::intrinsics::divide
#define _mm512_dpbusd_epi32 avx512::intrinsics::add_bytes
#define _mm512_dpwssd_epi32 avx512::intrinsics::add_words
#define _mm512_extractf32x8_ps avx512::intrinsics::eight_of
#define _mm512_insertf32x8 avx512::intrinsics::with_eight
#define _mm512_loadu_ps avx512::intrinsics::load<avx512::Floats>
#define _mm512_loadu_si512 avx512::intrinsics::load<avx512::Ints>
#define _mm512_mask_blend_epi16 avx512::intrinsics::blend_words
#define _mm512_mask_blend_ps avx512::intrinsics::blend
#define _mm512_mask_storeu_ps avx512::intrinsics::store_some
#define _mm512_maskz_loadu_ps avx512::intrinsics::load_some
#define _mm512_max_ps avx512::intrinsics::greater
#define _mm512_min_ps avx512::intrinsics::lesser
#define _mm512_movepi32_mask avx512::intrinsics::signs
#define _mm512_mul_pd avx512::intrinsics::multiply
#define _mm512_mul_ps avx512::intrinsics::multiply
#define _mm512_mullo_epi32 avx512::intrinsics::multiply
#define _mm512_reduce_add_epi32 avx512::intrinsics::sum
#define _mm512_reduce_add_pd avx512::intrinsics::sum
#define _mm512_reduce_max_ps avx512::intrinsics::greatest
#define _mm512_reduce_min_ps avx512::intrinsics::least
#define _mm512_roundscale_ps avx512::intrinsics::round_to_whole
#define _mm512_set1_epi32 avx512::intrinsics::all<avx512::Ints, int32_t>
#define _mm512_set1_pd avx512::intrinsics::all<avx512::Doubles, double>
#define _mm512_set1_ps avx512::intrinsics::all<avx512::Floats, float>
#define _mm512_setzero_pd() avx512::intrinsics::all<avx512::Doubles>(0.0)
#define _mm512_setzero_si512() avx512::intrinsics::all<avx512::Ints>(0)
#define _mm512_slli_epi32 avx512::intrinsics::shift_left
#define _mm512_store_si512 avx512::intrinsics::store<avx512::Ints>
#define _mm512_storeu_ps avx512::intrinsics::store<avx512::Floats>
#define _mm512_storeu_si512 avx512::intrinsics::store<avx512::Ints>
#define _mm512_sub_epi32 avx512::intrinsics::subtract
#define _mm512_sub_ps avx512::intrinsics::subtract
