// An f32 number as a bf16 value beside a 16-bit remainder: the value is the number rounded to nearest, and
// the two together are the number exactly. As bits,
//   number = (value << 16) + remainder,   remainder in [-2^15, 2^15).
// Ties round away from zero, where a conversion to bf16 alone would take the even neighbour. All of it is
// usable in kernels.
#pragma once

#include <bit>
#include <cstdint>

namespace xmoe {

// The bits of a number, and of any NaN those of one whose remainder is 0: whatever is rounded or joined, it
// stays a NaN.
constexpr std::uint32_t bits_to_split(float number) {
  constexpr std::uint32_t kNan = 0x7fc00000U;
  return number != number ? kNan : std::bit_cast<std::uint32_t>(number);
}

constexpr std::uint16_t split_value(float number) {
  return static_cast<std::uint16_t>((bits_to_split(number) + 0x8000U) >> 16);
}
constexpr std::int16_t split_remainder(float number) {
  return static_cast<std::int16_t>(bits_to_split(number) & 0xffffU);
}
constexpr float join_split(std::uint16_t value, std::int16_t remainder) {
  return std::bit_cast<float>((static_cast<std::uint32_t>(value) << 16) +
                              static_cast<std::uint32_t>(static_cast<std::int32_t>(remainder)));
}

// The bf16 above or below, with a probability that makes the number the mean of what is returned. `random`:
// 16 random bits, in [0, 2^16).
constexpr std::uint16_t round_by_chance(float number, std::uint32_t random) {
  return static_cast<std::uint16_t>((bits_to_split(number) + random) >> 16);
}

}  // namespace xmoe
