#include "base/rng.h"

#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <set>

namespace xmoe {
namespace {

// The published known-answer vectors of Philox4x32-10.
TEST(Philox, KnownAnswers) {
  using Words = std::array<std::uint32_t, 4>;
  static_assert(philox(0, 0, 0)[0] == 0x6627e8d5);
  EXPECT_EQ(philox(0, 0, 0), (Words{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
  constexpr std::uint64_t kOnes = ~std::uint64_t{0};
  EXPECT_EQ(philox(kOnes, kOnes, kOnes), (Words{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
  EXPECT_EQ(philox(0x299f31d0a4093822, 0x0370734413198a2e, 0x85a308d3243f6a88),
            (Words{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}));
}

TEST(CheapBits, AreAFunctionOfKeyAndCounter) {
  static_assert(cheap_bits(1, 7) == cheap_bits(1, 7));
  constexpr std::uint64_t kUpper = std::uint64_t{1} << 32;
  const std::set<std::uint32_t> distinct = {cheap_bits(1, 7), cheap_bits(1, 8), cheap_bits(2, 7),
                                            cheap_bits(1 + kUpper, 7), cheap_bits(1, 7 + kUpper)};
  EXPECT_EQ(distinct.size(), 5U);
}

// Each bit is set half of the time, and flipping one bit of key or counter flips each half of the time:
// within five deviations of a fair coin. Neighbours are not correlated.
TEST(CheapBits, LookRandom) {
  constexpr int kCount = 1 << 14;
  const double allowed = 5.0 * 0.5 / std::sqrt(static_cast<double>(kCount));
  const Rng keys(5, "keys");
  std::array<std::array<int, 32>, 129> ones{};  // of the bits themselves, then of what each input bit flips
  double product = 0.0;
  for (std::uint64_t i = 0; i < kCount; ++i) {
    const std::uint64_t key = keys.bits(0);
    const std::uint32_t here = cheap_bits(key, i);
    const auto centred = [](std::uint32_t x) { return static_cast<double>(x) * 0x1p-32 - 0.5; };
    product += centred(here) * centred(cheap_bits(key, i + 1)) * 12.0;
    for (std::size_t input = 0; input <= 128; ++input) {
      std::uint32_t word = here;
      if (input > 64)
        word ^= cheap_bits(key ^ (std::uint64_t{1} << (input - 65)), i);
      else if (input > 0)
        word ^= cheap_bits(key, i ^ (std::uint64_t{1} << (input - 1)));
      for (std::size_t bit = 0; bit < 32; ++bit) ones[input][bit] += static_cast<int>((word >> bit) & 1U);
    }
  }
  for (const auto& of_input : ones)
    for (const int count : of_input) EXPECT_NEAR(static_cast<double>(count) / kCount, 0.5, allowed);
  EXPECT_NEAR(product / kCount, 0.0, 5.0 / std::sqrt(static_cast<double>(kCount)));
}

TEST(Rng, IsAFunctionOfSeedStreamAndCounter) {
  const Rng a(1, "embedding");
  EXPECT_EQ(a.bits(7), Rng(1, "embedding").bits(7));
  std::set<std::uint64_t> distinct = {a.bits(7), a.bits(8), Rng(2, "embedding").bits(7),
                                      Rng(1, "output").bits(7), Rng(1, 0).bits(7)};
  EXPECT_EQ(distinct.size(), 5U);
}

TEST(Rng, UniformMoments) {
  const Rng rng(3, "uniform");
  constexpr int kCount = 100'000;
  double sum = 0.0;
  double squares = 0.0;
  for (int i = 0; i < kCount; ++i) {
    const double u = rng.uniform(static_cast<std::uint64_t>(i));
    ASSERT_GE(u, 0.0);
    ASSERT_LT(u, 1.0);
    sum += u;
    squares += u * u;
  }
  // Five standard errors: sqrt(1/12) and sqrt(4/45) over the square root of the count.
  const double root = std::sqrt(static_cast<double>(kCount));
  EXPECT_NEAR(sum / kCount, 0.5, 5.0 * std::sqrt(1.0 / 12.0) / root);
  EXPECT_NEAR(squares / kCount, 1.0 / 3.0, 5.0 * std::sqrt(4.0 / 45.0) / root);
}

TEST(Rng, NormalMoments) {
  const Rng rng(4, "normal");
  constexpr int kCount = 100'000;
  std::array<double, 4> moments{};
  double neighbours = 0.0;
  double previous = 0.0;
  for (int i = 0; i < kCount; ++i) {
    const double z = rng.normal(static_cast<std::uint64_t>(i));
    double power = 1.0;
    for (double& m : moments) m += (power *= z) / kCount;
    neighbours += z * previous / kCount;
    previous = z;
  }
  // Moments 0, 1, 0, 3, within five standard errors: the variances of z, z^2, z^3 and z^4 are 1, 2, 15
  // and 96.
  const double root = std::sqrt(static_cast<double>(kCount));
  EXPECT_NEAR(moments[0], 0.0, 5.0 / root);
  EXPECT_NEAR(moments[1], 1.0, 5.0 * std::sqrt(2.0) / root);
  EXPECT_NEAR(moments[2], 0.0, 5.0 * std::sqrt(15.0) / root);
  EXPECT_NEAR(moments[3], 3.0, 5.0 * std::sqrt(96.0) / root);
  EXPECT_NEAR(neighbours, 0.0, 5.0 / root);  // one counter says nothing about the next
}

// Initial weights are these numbers: models trained before and after a change must begin alike.
TEST(Rng, NormalKnownAnswers) {
  const Rng rng(9, "w");
  EXPECT_DOUBLE_EQ(rng.normal(0), -0.052823400816248867);
  EXPECT_DOUBLE_EQ(rng.normal(1), -0.74598016086962182);
  EXPECT_DOUBLE_EQ(rng.normal(997), -0.56227332772312577);
  EXPECT_DOUBLE_EQ(rng.normal(5'000'000'000), 0.24680642459968891);
}

TEST(Rng, BelowCoversItsRangeEvenly) {
  const Rng rng(5, "below");
  constexpr std::uint64_t kBound = 7;
  constexpr int kCount = 70'000;
  std::array<int, kBound> counts{};
  for (int i = 0; i < kCount; ++i) ++counts.at(rng.below(static_cast<std::uint64_t>(i), kBound));
  const double expected = static_cast<double>(kCount) / kBound;
  for (const int count : counts) EXPECT_NEAR(count, expected, 5.0 * std::sqrt(expected));
  EXPECT_EQ(rng.below(9, 1), 0U);
}

}  // namespace
}  // namespace xmoe
