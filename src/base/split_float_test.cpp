#include "base/split_float.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

#include "base/dtype.h"
#include "base/rng.h"

namespace xmoe {
namespace {

float number(std::uint32_t bits) { return std::bit_cast<float>(bits); }
std::uint32_t bits(float number) { return std::bit_cast<std::uint32_t>(number); }
float widened(std::uint16_t value) { return number(std::uint32_t{value} << 16); }

TEST(SplitFloat, IsExact) {
  const Rng rng(1, "split");
  std::vector<std::uint32_t> cases = {0,          1,          0x7fff,     0x8000,     0xffff,
                                      0x3f800000, 0x3f807fff, 0x3f808000, 0x3f80ffff, 0x80000000,
                                      0xbf808000, 0x7f7fffff, 0xff7fffff, 0x7f800000, 0xff800000};
  for (std::uint64_t i = 0; i < 100'000; ++i) cases.push_back(static_cast<std::uint32_t>(rng.bits(i)));
  for (const std::uint32_t b : cases) {
    const float x = number(b);
    if (std::isnan(x)) continue;
    ASSERT_EQ(bits(SplitFloat<bf16>::join(SplitFloat<bf16>::value(x), SplitFloat<bf16>::remainder(x))), b);
  }
}

TEST(SplitFloat, TheValueIsTheNearest) {
  EXPECT_EQ(SplitFloat<bf16>::value(number(0x3f807fff)), 0x3f80);
  EXPECT_EQ(SplitFloat<bf16>::value(number(0x3f808000)), 0x3f81);  // a tie goes away from zero
  EXPECT_EQ(SplitFloat<bf16>::value(number(0xbf808000)), 0xbf81);
  EXPECT_EQ(SplitFloat<bf16>::remainder(number(0x3f808000)), -0x8000);
  EXPECT_EQ(SplitFloat<bf16>::remainder(number(0x3f80ffff)), -1);
  EXPECT_EQ(SplitFloat<bf16>::value(number(0x7f7fffff)), 0x7f80);  // beyond the largest bf16
  const Rng rng(2, "nearest");
  for (std::uint64_t i = 0; i < 100'000; ++i) {
    const auto b = static_cast<std::uint32_t>(rng.bits(i));
    if ((b & 0xffffU) == 0x8000U || std::isnan(number(b))) continue;
    ASSERT_EQ(SplitFloat<bf16>::value(number(b)), bf16(number(b)).bits) << b;
  }
}

TEST(SplitFloat, NanStaysNan) {
  for (const std::uint32_t nan : {0x7fffffffU, 0xffffffffU, 0x7fc00000U, 0x7f800001U}) {
    EXPECT_TRUE(std::isnan(widened(SplitFloat<bf16>::value(number(nan)))));
    EXPECT_TRUE(std::isnan(SplitFloat<bf16>::join(SplitFloat<bf16>::value(number(nan)),
                                                  SplitFloat<bf16>::remainder(number(nan)))));
    EXPECT_TRUE(std::isnan(widened(round_by_chance(number(nan), 0xffffU))));
  }
}

// Over all 2^16 random numbers, each once, the mean is the number itself.
TEST(SplitFloat, RoundingByChanceIsUnbiased) {
  for (const std::uint32_t b :
       {0x3f800001U, 0x3f80ffffU, 0x3f812345U, 0xc1239abcU, 0x00000123U, 0x3f800000U}) {
    double sum = 0.0;
    for (std::uint32_t random = 0; random < 0x10000U; ++random)
      sum += static_cast<double>(widened(round_by_chance(number(b), random)));
    EXPECT_EQ(sum / 0x10000, static_cast<double>(number(b)));
  }
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  EXPECT_EQ(widened(round_by_chance(kInfinity, 0xffffU)), kInfinity);
}

using Half = SplitFloat<f16>;

float joined(float x) { return Half::join(Half::value(x), Half::remainder(x)); }
float widened_f16(std::uint16_t value) {
  f16 half;
  half.bits = value;
  return static_cast<float>(half);
}

TEST(SplitF16, IsExactWhereStepsAllowAndNearElsewhere) {
  static_assert(Half::join(Half::value(0.1F), Half::remainder(0.1F)) == 0.1F);
  const Rng rng(3, "split");
  for (std::uint64_t i = 0; i < 300'000; ++i) {
    // Exponents from far below f16's to its largest, all alike often.
    const auto b = static_cast<std::uint32_t>(rng.bits(i));
    const std::uint32_t exponent = 127U - 45U + static_cast<std::uint32_t>(rng.below(i + 1'000'000, 61));
    const float x = number((b & 0x807fffffU) | (exponent << 23));
    if (std::abs(x) >= 65520.0F) continue;
    const float back = joined(x);
    ASSERT_EQ(std::signbit(back), std::signbit(x));
    if (std::abs(x) >= 0x1p-17F)
      ASSERT_EQ(bits(back), bits(x)) << x;
    else
      ASSERT_LE(std::abs(back - x), 0x1p-41F) << x;
    // The value is a nearest one, to within the step of the whole.
    const float value = widened_f16(Half::value(x));
    ASSERT_LE(std::abs(value - x), std::abs(static_cast<float>(f16(x)) - x) + 0x1p-41F) << x;
  }
}

// Every finite value beside remainders at the edges of their range.
TEST(SplitF16, EveryValueBesideTheEdgesOfRemainders) {
  for (std::uint32_t v = 0; v < 0x10000; ++v) {
    const auto value = static_cast<std::uint16_t>(v);
    const std::uint32_t magnitude = v & 0x7fffU;
    if (magnitude >= 0x7c00) continue;
    ASSERT_EQ(bits(Half::join(value, 0)), bits(widened_f16(value)));
    for (const int r : {-0x8000, -0x7ff8, -8, 0, 8, 0x7ff8}) {
      if (magnitude == 0 && r < 0) continue;  // would lie on the other side of zero
      const auto remainder = static_cast<std::int16_t>(r);
      const float x = Half::join(value, remainder);
      ASSERT_EQ(Half::value(x), value) << r;
      ASSERT_EQ(Half::remainder(x), remainder) << v;
    }
  }
}

TEST(SplitF16, SaturatesWhereF16Ends) {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  const float last = std::nextafter(65520.0F, 0.0F);
  for (const float x : {last, 65520.0F, 1e5F, 3e38F}) {
    EXPECT_EQ(joined(x), last);
    EXPECT_EQ(joined(-x), -last);
    EXPECT_EQ(widened_f16(Half::value(x)), 65504.0F);
  }
  EXPECT_EQ(joined(kInfinity), kInfinity);
  EXPECT_EQ(joined(-kInfinity), -kInfinity);
  for (const std::uint32_t nan : {0x7fffffffU, 0xffffffffU, 0x7fc00000U, 0x7f800001U}) {
    EXPECT_TRUE(std::isnan(widened_f16(Half::value(number(nan)))));
    EXPECT_TRUE(std::isnan(joined(number(nan))));
  }
  EXPECT_EQ(bits(joined(-0.0F)), 0x80000000U);
  EXPECT_EQ(joined(0x1p-42F), 0.0F);
  EXPECT_EQ(joined(0x1p-40F), 0x1p-40F);
}

// Steps far below a unit of the value add up, also where f16 is subnormal.
TEST(SplitF16, SmallStepsAddUp) {
  for (const float start : {1.0F, 0x1p-14F, 0.0F}) {
    float w = start;
    for (int i = 0; i < 1 << 12; ++i) w = joined(w + 0x1p-22F);
    EXPECT_EQ(w, start + 0x1p-10F);
  }
}

}  // namespace
}  // namespace xmoe
