#include "train/sampling.h"

#include <gtest/gtest.h>

#include <array>
#include <cmath>

namespace xmoe {
namespace {

const std::array<float, 4> kLogits = {0.0F, std::log(4.0F), std::log(2.0F),
                                      std::log(1.0F)};  // 1/8, 4/8, 2/8, 1/8

TEST(Sampling, TemperatureZeroTakesTheFirstOfTheLikeliest) {
  const std::array<float, 3> tied = {1.0F, 3.0F, 3.0F};
  EXPECT_EQ(Sampler({.temperature = 0.0}).choose(tied, 0.99), 1);
}

TEST(Sampling, DrawsInOrderOfLikelihood) {
  Sampler sampler({});
  EXPECT_EQ(sampler.choose(kLogits, 0.0), 1);
  EXPECT_EQ(sampler.choose(kLogits, 0.49), 1);
  EXPECT_EQ(sampler.choose(kLogits, 0.51), 2);
  EXPECT_EQ(sampler.choose(kLogits, 0.80), 0);  // ties: the lower id
  EXPECT_EQ(sampler.choose(kLogits, 0.99), 3);
}

TEST(Sampling, TopKCutsTheTail) {
  Sampler sampler({.top_k = 2});
  EXPECT_EQ(sampler.choose(kLogits, 0.66), 1);  // 4 / 6
  EXPECT_EQ(sampler.choose(kLogits, 0.67), 2);
  EXPECT_EQ(sampler.choose(kLogits, 0.999), 2);
}

TEST(Sampling, TopPKeepsTheShortestRunThatReachesIt) {
  Sampler half({.top_p = 0.5});
  EXPECT_EQ(half.choose(kLogits, 0.999), 1);
  Sampler more({.top_p = 0.6});
  EXPECT_EQ(more.choose(kLogits, 0.999), 2);
}

TEST(Sampling, TemperatureSharpensAndFlattens) {
  Sampler cold({.temperature = 0.5});  // odds 1 : 16 : 4 : 1
  EXPECT_EQ(cold.choose(kLogits, 0.72), 1);
  EXPECT_EQ(cold.choose(kLogits, 0.73), 2);
  Sampler hot({.temperature = 1e6});
  EXPECT_EQ(hot.choose(kLogits, 0.26), 2);
}

}  // namespace
}  // namespace xmoe
