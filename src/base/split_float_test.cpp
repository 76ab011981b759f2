#include "base/split_float.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

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
    ASSERT_EQ(bits(join_split(split_value(x), split_remainder(x))), b);
  }
}

TEST(SplitFloat, TheValueIsTheNearest) {
  EXPECT_EQ(split_value(number(0x3f807fff)), 0x3f80);
  EXPECT_EQ(split_value(number(0x3f808000)), 0x3f81);  // a tie goes away from zero
  EXPECT_EQ(split_value(number(0xbf808000)), 0xbf81);
  EXPECT_EQ(split_remainder(number(0x3f808000)), -0x8000);
  EXPECT_EQ(split_remainder(number(0x3f80ffff)), -1);
  EXPECT_EQ(split_value(number(0x7f7fffff)), 0x7f80);  // beyond the largest bf16
  const Rng rng(2, "nearest");
  for (std::uint64_t i = 0; i < 100'000; ++i) {
    const auto b = static_cast<std::uint32_t>(rng.bits(i));
    if ((b & 0xffffU) == 0x8000U || std::isnan(number(b))) continue;
    ASSERT_EQ(split_value(number(b)), bf16(number(b)).bits) << b;
  }
}

TEST(SplitFloat, NanStaysNan) {
  for (const std::uint32_t nan : {0x7fffffffU, 0xffffffffU, 0x7fc00000U, 0x7f800001U}) {
    EXPECT_TRUE(std::isnan(widened(split_value(number(nan)))));
    EXPECT_TRUE(std::isnan(join_split(split_value(number(nan)), split_remainder(number(nan)))));
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

}  // namespace
}  // namespace xmoe
