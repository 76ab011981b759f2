// Element types of tensors, and bf16 and f16 as storage types (arithmetic happens in float).
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <string_view>

#include "base/error.h"

namespace xmoe {

enum class DType : std::uint8_t { f32, bf16, f16, i16, i32, i64, u8 };

constexpr std::size_t size_of(DType dtype) {
  switch (dtype) {
    case DType::f32:
    case DType::i32:
      return 4;
    case DType::bf16:
    case DType::f16:
    case DType::i16:
      return 2;
    case DType::i64:
      return 8;
    case DType::u8:
      return 1;
  }
  return 0;
}

std::string_view name_of(DType dtype);

// Brain float: the upper half of an IEEE float. Conversion from float rounds to nearest, ties to even, and
// keeps NaN a NaN.
struct bf16 {
  std::uint16_t bits = 0;

  bf16() = default;
  explicit bf16(float value) {
    const auto u = std::bit_cast<std::uint32_t>(value);
    const bool nan = (u & 0x7fffffffU) > 0x7f800000U;
    const std::uint32_t rounded = u + 0x7fffU + ((u >> 16) & 1U);
    bits = static_cast<std::uint16_t>(nan ? (u >> 16) | 0x40U : rounded >> 16);
  }
  explicit operator float() const { return std::bit_cast<float>(static_cast<std::uint32_t>(bits) << 16); }
};

// IEEE half: 5 bits of exponent, 10 of mantissa; largest 65504, least normal 2^-14, subnormals in steps of
// 2^-24. Conversion from float rounds to nearest, ties to even, beyond the largest to infinity, and keeps NaN
// a NaN. Without branches or instructions of its own, so that loops over it are vectorised: GCC 12 takes the
// processor's conversions one element at a time only, which is slower.
struct f16 {
  std::uint16_t bits = 0;

  f16() = default;
  constexpr explicit f16(float value) {
    const auto u = std::bit_cast<std::uint32_t>(value);
    const std::uint32_t a = u & 0x7fffffffU;
    const std::uint32_t normal = (a - kRebias + 0xfffU + ((a >> 13) & 1U)) >> 13;
    // One half has steps of 2^-24 above it: the sum is rounded to them.
    const std::uint32_t small =
        std::bit_cast<std::uint32_t>(std::bit_cast<float>(a) + 0.5F) - std::bit_cast<std::uint32_t>(0.5F);
    std::uint32_t rounded = select(a < 0x38800000U, small, normal);
    rounded = select(a >= 0x477ff000U, 0x7c00U, rounded);  // from 65520 on, half-way to 65536
    rounded = select(a > 0x7f800000U, 0x7e00U, rounded);
    bits = static_cast<std::uint16_t>(rounded | ((u >> 16) & 0x8000U));
  }
  constexpr explicit operator float() const {
    const std::uint32_t a = (bits & 0x7fffU) << 13;
    const float small = std::bit_cast<float>(a + 0x38800000U) - 0x1p-14F;
    // Infinities and NaN have the largest exponent there, too.
    const std::uint32_t normal = a + kRebias + select(a >= 0x0f800000U, kRebias, 0U);
    const std::uint32_t number = select(a < 0x00800000U, std::bit_cast<std::uint32_t>(small), normal);
    return std::bit_cast<float>(number | ((bits & 0x8000U) << 16));
  }

 private:
  static constexpr std::uint32_t kRebias = (127U - 15U) << 23;  // of exponents, in the bits of a float

  static constexpr std::uint32_t select(bool condition, std::uint32_t yes, std::uint32_t no) {
    const std::uint32_t mask = 0U - static_cast<std::uint32_t>(condition);
    return (yes & mask) | (no & ~mask);
  }
};

template <typename T>
struct dtype_of;
template <>
struct dtype_of<float> {
  static constexpr DType value = DType::f32;
};
template <>
struct dtype_of<bf16> {
  static constexpr DType value = DType::bf16;
};
template <>
struct dtype_of<f16> {
  static constexpr DType value = DType::f16;
};
template <>
struct dtype_of<std::int16_t> {
  static constexpr DType value = DType::i16;
};
template <>
struct dtype_of<std::int32_t> {
  static constexpr DType value = DType::i32;
};
template <>
struct dtype_of<std::int64_t> {
  static constexpr DType value = DType::i64;
};
template <>
struct dtype_of<std::uint8_t> {
  static constexpr DType value = DType::u8;
};

constexpr bool is_float(DType dtype) {
  return dtype == DType::f32 || dtype == DType::bf16 || dtype == DType::f16;
}

// Calls f(T{}) with the element type of a floating-point tensor:
// `with_float(x.dtype(), [&]<typename T>(T) {...})`.
template <typename F>
decltype(auto) with_float(DType dtype, F&& f) {
  switch (dtype) {
    case DType::f32:
      return f(float{});
    case DType::bf16:
      return f(bf16{});
    case DType::f16:
      return f(f16{});
    default:
      fail("dtype {} is not supported here: expected f32, bf16 or f16", name_of(dtype));
  }
}

// The same for several tensors that are f32 or of one 16-bit dtype: with_half() finds that one,
// with_float_or() then dispatches each. Nothing is compiled for mixtures of bf16 and f16.
template <typename Half, typename F>
decltype(auto) with_float_or(DType dtype, F&& f) {
  if (dtype == DType::f32) return f(float{});
  if (dtype == dtype_of<Half>::value) return f(Half{});
  fail("dtype {} is not supported here: expected f32 or {}", name_of(dtype), name_of(dtype_of<Half>::value));
}
template <typename F>
decltype(auto) with_half(std::initializer_list<DType> dtypes, F&& f) {
  for (const DType dtype : dtypes)
    if (dtype == DType::f16) return f(f16{});
  return f(bf16{});
}

}  // namespace xmoe
