#include "base/dtype.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <limits>
#include <utility>

namespace xmoe {
namespace {

float rounded(float value) { return static_cast<float>(bf16(value)); }

TEST(Dtype, SizesAndNames) {
  EXPECT_EQ(size_of(DType::f32), 4U);
  EXPECT_EQ(size_of(DType::bf16), 2U);
  EXPECT_EQ(size_of(DType::f16), 2U);
  EXPECT_EQ(size_of(DType::i32), 4U);
  EXPECT_EQ(size_of(DType::i64), 8U);
  EXPECT_EQ(size_of(DType::i16), 2U);
  EXPECT_EQ(size_of(DType::u8), 1U);
  EXPECT_EQ(name_of(DType::bf16), "bf16");
  static_assert(sizeof(bf16) == 2);
}

TEST(Bf16, RoundsToNearestTiesToEven) {
  // Between 1 and 2 the numbers of bf16 are 2^-7 apart.
  constexpr float kStep = 0x1p-7F;
  EXPECT_EQ(rounded(1.0F), 1.0F);
  EXPECT_EQ(rounded(1.0F + 0.49F * kStep), 1.0F);
  EXPECT_EQ(rounded(1.0F + 0.51F * kStep), 1.0F + kStep);
  EXPECT_EQ(rounded(1.0F + 0.5F * kStep), 1.0F);                 // tie, even is below
  EXPECT_EQ(rounded(1.0F + 1.5F * kStep), 1.0F + 2.0F * kStep);  // tie, even is above
  EXPECT_EQ(rounded(-1.0F - 1.5F * kStep), -1.0F - 2.0F * kStep);
  EXPECT_EQ(rounded(2.0F - 0.25F * kStep), 2.0F);  // carries into the exponent
}

TEST(Bf16, KeepsZeroesAndInfinities) {
  EXPECT_EQ(bf16(0.0F).bits, 0x0000);
  EXPECT_EQ(bf16(-0.0F).bits, 0x8000);
  EXPECT_EQ(bf16{}.bits, 0x0000);
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  EXPECT_EQ(rounded(kInfinity), kInfinity);
  EXPECT_EQ(rounded(-kInfinity), -kInfinity);
  EXPECT_EQ(rounded(std::numeric_limits<float>::max()),
            kInfinity);  // nearer to 2^128 than to the largest bf16
  EXPECT_EQ(rounded(std::numeric_limits<float>::denorm_min()), 0.0F);
  EXPECT_EQ(rounded(0x1p-130F), 0x1p-130F);  // subnormal in both
}

TEST(Bf16, NanStaysNan) {
  // The last has its mantissa only in the bits that are cut off, the one before would round up to minus zero.
  for (const std::uint32_t bits : {0x7fc00000U, 0xffc00000U, 0xffffffffU, 0x7f800001U})
    EXPECT_TRUE(std::isnan(rounded(std::bit_cast<float>(bits)))) << std::hex << bits;
}

TEST(Bf16, EveryNumberSurvivesARoundTrip) {
  for (std::uint32_t bits = 0; bits <= 0xffff; ++bits) {
    bf16 b;
    b.bits = static_cast<std::uint16_t>(bits);
    const auto value = static_cast<float>(b);
    if (std::isnan(value))
      EXPECT_TRUE(std::isnan(rounded(value)));
    else
      ASSERT_EQ(bf16(value).bits, b.bits);
  }
}

float rounded_f16(float value) { return static_cast<float>(f16(value)); }
float f16_of(std::uint32_t bits) {
  f16 half;
  half.bits = static_cast<std::uint16_t>(bits);
  return static_cast<float>(half);
}

TEST(F16, ByHand) {
  static_assert(f16(1.0F).bits == 0x3c00 && static_cast<float>(f16(-2.5F)) == -2.5F);
  EXPECT_EQ(f16(0.0F).bits, 0x0000);
  EXPECT_EQ(f16(-0.0F).bits, 0x8000);
  EXPECT_EQ(f16(65504.0F).bits, 0x7bff);
  EXPECT_EQ(f16(0x1p-14F).bits, 0x0400);
  EXPECT_EQ(f16(0x1p-24F).bits, 0x0001);
  EXPECT_EQ(f16_of(0x3555), 0.333251953125F);
  EXPECT_EQ(f16_of(0x83ff), -0x3ffp-24F);
  EXPECT_EQ(f16_of(0xfc00), -std::numeric_limits<float>::infinity());
}

TEST(F16, RoundsToNearestTiesToEven) {
  constexpr float kStep = 0x1p-10F;  // of the numbers between 1 and 2
  EXPECT_EQ(rounded_f16(1.0F + 0.49F * kStep), 1.0F);
  EXPECT_EQ(rounded_f16(1.0F + 0.51F * kStep), 1.0F + kStep);
  EXPECT_EQ(rounded_f16(1.0F + 0.5F * kStep), 1.0F);
  EXPECT_EQ(rounded_f16(1.0F + 1.5F * kStep), 1.0F + 2.0F * kStep);
  EXPECT_EQ(rounded_f16(-2.0F + 0.2F * kStep), -2.0F);
  EXPECT_EQ(rounded_f16(0x1p-25F), 0.0F);  // half of the least: to even
  EXPECT_EQ(rounded_f16(std::nextafter(0x1p-25F, 1.0F)), 0x1p-24F);
  EXPECT_EQ(rounded_f16(3.0F * 0x1p-25F), 0x1p-23F);
  EXPECT_EQ(rounded_f16(0x1p-14F - 0x1p-26F), 0x1p-14F);  // from the subnormal to the normal numbers
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  EXPECT_EQ(rounded_f16(std::nextafter(65520.0F, 0.0F)), 65504.0F);
  EXPECT_EQ(rounded_f16(65520.0F), kInfinity);
  EXPECT_EQ(rounded_f16(-1e30F), -kInfinity);
  EXPECT_EQ(rounded_f16(kInfinity), kInfinity);
}

// Every number survives a round trip, and what lies between it and its neighbour goes to the nearer.
TEST(F16, EveryNumber) {
  for (std::uint32_t bits = 0; bits < 0x7c00; ++bits) {
    const float here = f16_of(bits);
    ASSERT_EQ(f16(here).bits, bits);
    ASSERT_EQ(f16(-here).bits, bits | 0x8000U);
    if (bits == 0x7bff) break;
    const float next = f16_of(bits + 1);
    ASSERT_LT(here, next);
    const float middle = 0.5F * (here + next);
    ASSERT_EQ(f16(middle).bits, bits % 2 == 0 ? bits : bits + 1);
    ASSERT_EQ(f16(std::nextafter(middle, 0.0F)).bits, bits);
    ASSERT_EQ(f16(std::nextafter(middle, 1e9F)).bits, bits + 1);
  }
  for (const std::uint32_t sign : {0U, 0x8000U})
    for (std::uint32_t bits = 0x7c01; bits <= 0x7fff; ++bits)
      ASSERT_TRUE(std::isnan(rounded_f16(f16_of(bits | sign)))) << bits;
  for (const std::uint32_t nan : {0x7fc00000U, 0xffffffffU, 0x7f800001U})
    EXPECT_TRUE(std::isnan(rounded_f16(std::bit_cast<float>(nan))));
}

TEST(Dtype, DispatchesSeveralFloats) {
  const auto sizes = [](DType a, DType b) {
    return with_half({a, b}, [&]<typename Half>(Half) {
      return with_float_or<Half>(a, [&]<typename A>(A) {
        return with_float_or<Half>(b, [&]<typename B>(B) {
          return std::pair{dtype_of<A>::value, dtype_of<B>::value};
        });
      });
    });
  };
  for (const DType a : {DType::f32, DType::bf16, DType::f16})
    for (const DType b : {DType::f32, DType::bf16, DType::f16}) {
      if (a == b || a == DType::f32 || b == DType::f32)
        EXPECT_EQ(sizes(a, b), (std::pair{a, b}));
      else
        EXPECT_THROW(sizes(a, b), Error);
    }
}

TEST(Dtype, DispatchesToFloatsOnly) {
  EXPECT_EQ(with_float(DType::f32, []<typename T>(T) { return sizeof(T); }), 4U);
  EXPECT_EQ(with_float(DType::bf16, []<typename T>(T) { return sizeof(T); }), 2U);
  EXPECT_EQ(with_float(DType::f16, []<typename T>(T) { return dtype_of<T>::value; }), DType::f16);
  EXPECT_THROW(with_float(DType::i32, []<typename T>(T) { return sizeof(T); }), Error);
}

}  // namespace
}  // namespace xmoe
