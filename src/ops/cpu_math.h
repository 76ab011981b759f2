// Elementary functions that the compiler can vectorise (the C library's cannot, without -ffast-math).
#pragma once

#include <bit>
#include <cstdint>

namespace xmoe::cpu {

// e^x within 2 units in the last place over the whole range of normal results: below it gives the least
// normal number or 0, above it saturates near FLT_MAX. NaN gives NaN.
inline float fast_exp(float x) {
  constexpr float kLog2e = 1.44269504088896341F;
  // ln 2 in two parts, so that n * ln2_high is exact for |n| < 2^9.
  constexpr float kLn2High = 0.693359375F;
  constexpr float kLn2Low = -2.12194440e-4F;
  // 1.5 * 2^23: adding it rounds to an integer in the low mantissa bits.
  constexpr float kRound = 12582912.0F;
  const float low = x < -87.3F ? -87.3F : x;
  const float c = low > 88.37F ? 88.37F : low;
  const float shifted = c * kLog2e + kRound;
  const float n = shifted - kRound;
  const float r = (c - n * kLn2High) - n * kLn2Low;
  // Taylor coefficients of e^r to r^7: the remainder at |r| <= ln(2)/2 is below 2^-27.
  float p = 1.0F / 5040.0F;
  p = p * r + 1.0F / 720.0F;
  p = p * r + 1.0F / 120.0F;
  p = p * r + 1.0F / 24.0F;
  p = p * r + 1.0F / 6.0F;
  p = p * r + 0.5F;
  p = p * r + 1.0F;
  p = p * r + 1.0F;
  const auto exponent = static_cast<std::uint32_t>(static_cast<std::int32_t>(n)) << 23;
  return std::bit_cast<float>(std::bit_cast<std::uint32_t>(p) + exponent);
}

inline float sigmoid(float x) { return 1.0F / (1.0F + fast_exp(-x)); }

}  // namespace xmoe::cpu
