#include "base/dtype.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <limits>

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

TEST(Dtype, DispatchesToFloatsOnly) {
  EXPECT_EQ(with_float(DType::f32, []<typename T>(T) { return sizeof(T); }), 4U);
  EXPECT_EQ(with_float(DType::bf16, []<typename T>(T) { return sizeof(T); }), 2U);
  EXPECT_THROW(with_float(DType::i32, []<typename T>(T) { return sizeof(T); }), Error);
}

}  // namespace
}  // namespace xmoe
