// Sixteen numbers at a time, by the same names and with the same results on every processor.
#pragma once

#include <cstdint>

namespace native {

using Half = uint16_t;  // the bits of a float16

}  // namespace native

#ifdef __AVX512VNNI__
#include "lanes_avx512.h"
#else
#include "lanes_avx2.h"
#endif

namespace native {

constexpr int64_t kLanes = 16;

}  // namespace native
