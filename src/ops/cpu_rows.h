// Loops over one row that several CPU ops share. Sums are taken in the order of the vector lanes: the same
// for every call of one length.
#pragma once

#include <cstdint>

#include "base/dtype.h"

namespace xmoe::cpu {

// Rounds into place. Assigning 16 bits as a whole keeps GCC 12 from vectorising loops that are marked simd.
inline void round_to(float value, float& to) { to = value; }
inline void round_to(float value, bf16& to) { to.bits = bf16(value).bits; }
inline void round_to(float value, f16& to) { to.bits = f16(value).bits; }

// n >= 1. A NaN may be passed over.
inline float row_max(const float* x, std::int64_t n) {
  float best = x[0];
#pragma omp simd reduction(max : best)
  for (std::int64_t i = 0; i < n; ++i) best = x[i] > best ? x[i] : best;
  return best;
}

template <typename T>
float dot(const T* a, const T* b, std::int64_t n) {
  float sum = 0.0F;
#pragma omp simd reduction(+ : sum)
  for (std::int64_t i = 0; i < n; ++i) sum += static_cast<float>(a[i]) * static_cast<float>(b[i]);
  return sum;
}

}  // namespace xmoe::cpu
