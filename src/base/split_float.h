// An f32 number as a value of 16 bits (bf16 or f16) beside a 16-bit remainder: the value is the number
// rounded to nearest, and the two together are the number. As integers,
//   scaled = (value << 16) + remainder,   remainder in [-2^15, 2^15).
// Ties round away from zero, where a conversion alone would take the even neighbour. All of it is usable in
// kernels.
//
// bf16: scaled is the number's own bits, so that the two are the number exactly.
// f16: scaled, the magnitude's, is the bits of an f16 number continued by 16 below the last. From 2^-14 on an
// f32 number needs 13 of them, so that the two are the number exactly; below, where steps are even, they are
// the next multiple of 2^-40. Above, finite numbers saturate at what rounds to the largest f16.
#pragma once

#include <bit>
#include <cstdint>

#include "base/dtype.h"

namespace xmoe {

template <typename T>
struct SplitFloat;

template <>
struct SplitFloat<bf16> {
  // Of any NaN those of one whose remainder is 0: whatever is rounded or joined, it stays a NaN.
  static constexpr std::uint32_t scaled(float number) {
    constexpr std::uint32_t kNan = 0x7fc00000U;
    return number != number ? kNan : std::bit_cast<std::uint32_t>(number);
  }
  static constexpr std::uint16_t value(float number) {
    return static_cast<std::uint16_t>((scaled(number) + 0x8000U) >> 16);
  }
  static constexpr std::int16_t remainder(float number) {
    return static_cast<std::int16_t>(scaled(number) & 0xffffU);
  }
  static constexpr float join(std::uint16_t value, std::int16_t remainder) {
    return std::bit_cast<float>((static_cast<std::uint32_t>(value) << 16) +
                                static_cast<std::uint32_t>(static_cast<std::int32_t>(remainder)));
  }
};

template <>
struct SplitFloat<f16> {
  static constexpr std::uint32_t scaled(float number) {
    constexpr std::uint32_t kLargest = 0x7bff7ff8U;  // the last f32 number below 65520
    const std::uint32_t a = std::bit_cast<std::uint32_t>(number) & 0x7fffffffU;
    if (a > 0x7f800000U) return 0x7e000000U;   // NaN
    if (a == 0x7f800000U) return 0x7c000000U;  // infinity
    if (a >= 0x477ff000U) return kLargest;
    if (a >= 0x38800000U) return (a - kRebias) << 3;
    // Adding 2^23 and taking it away again rounds to an integer; from there on these numbers are integers.
    const float units = std::bit_cast<float>(a) * 0x1p40F;
    const float whole = units < 0x1p23F ? (units + 0x1p23F) - 0x1p23F : units;
    return static_cast<std::uint32_t>(static_cast<std::int32_t>(whole));
  }
  static constexpr std::uint16_t value(float number) {
    return static_cast<std::uint16_t>(((scaled(number) + 0x8000U) >> 16) |
                                      ((std::bit_cast<std::uint32_t>(number) >> 16) & 0x8000U));
  }
  static constexpr std::int16_t remainder(float number) {
    return static_cast<std::int16_t>(scaled(number) & 0xffffU);
  }
  static constexpr float join(std::uint16_t value, std::int16_t remainder) {
    const std::uint32_t sign = (value & 0x8000U) << 16;
    // A remainder below a value of 0 is one that split() does not give; it counts as none.
    const std::int32_t sum = (static_cast<std::int32_t>(value & 0x7fffU) << 16) + remainder;
    const auto s = static_cast<std::uint32_t>(sum < 0 ? 0 : sum);
    std::uint32_t a = (s >> 3) + kRebias;
    if (s >= 0x7c000000U) a += kRebias;
    if (s < 0x04000000U) a = std::bit_cast<std::uint32_t>(static_cast<float>(sum < 0 ? 0 : sum) * 0x1p-40F);
    return std::bit_cast<float>(a | sign);
  }

 private:
  static constexpr std::uint32_t kRebias = (127U - 15U) << 23;  // of exponents, in the bits of a float
};

// The bf16 above or below, with a probability that makes the number the mean of what is returned. `random`:
// 16 random bits, in [0, 2^16).
constexpr std::uint16_t round_by_chance(float number, std::uint32_t random) {
  return static_cast<std::uint16_t>((SplitFloat<bf16>::scaled(number) + random) >> 16);
}

}  // namespace xmoe
