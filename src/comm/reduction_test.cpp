#include "comm/reduction.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

namespace xmoe {
namespace {

TEST(Reduction, SumsInRankOrder) {
  // 1e8 + 1 is 1e8 in f32: the order of the ranks decides whether the ones survive.
  const std::vector<float> parts = {1e8F, 1.0F, 1.0F, -1e8F, -1e8F, 1.0F};  // three ranks of two
  std::vector<float> out(2);
  reduce_parts(ReduceOp::sum, DType::f32, parts.data(), 3, 2, out.data());
  EXPECT_EQ(out, (std::vector<float>{1e8F + 1.0F - 1e8F, 1.0F - 1e8F + 1.0F}));
}

TEST(Reduction, RoundsBf16Once) {
  // 256 + 1 + 1: rounded after every step it stays 256, in f32 it is 258, which bf16 holds.
  const std::vector<bf16> parts = {bf16(256.0F), bf16(1.0F), bf16(1.0F)};
  bf16 out;
  reduce_parts(ReduceOp::sum, DType::bf16, parts.data(), 3, 1, &out);
  EXPECT_EQ(static_cast<float>(out), 258.0F);
}

TEST(Reduction, RoundsF16Once) {
  // 2048 + 1 + 1: rounded after every step it stays 2048.
  const std::vector<f16> parts = {f16(2048.0F), f16(1.0F), f16(1.0F)};
  f16 out;
  reduce_parts(ReduceOp::sum, DType::f16, parts.data(), 3, 1, &out);
  EXPECT_EQ(static_cast<float>(out), 2050.0F);
}

TEST(Reduction, CountsBeyondFloat) {
  const std::vector<std::int64_t> parts = {(std::int64_t{1} << 53) + 1, 1};
  std::int64_t out = 0;
  reduce_parts(ReduceOp::sum, DType::i64, parts.data(), 2, 1, &out);
  EXPECT_EQ(out, (std::int64_t{1} << 53) + 2);
  reduce_parts(ReduceOp::max, DType::i64, parts.data(), 2, 1, &out);
  EXPECT_EQ(out, (std::int64_t{1} << 53) + 1);
  reduce_parts(ReduceOp::min, DType::i64, parts.data(), 2, 1, &out);
  EXPECT_EQ(out, 1);
}

TEST(Reduction, NanSurvivesMaxAndMin) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const std::vector<float> parts = {nan, 1.0F, 2.0F, nan};  // two ranks of two
  std::vector<float> out(2);
  for (const ReduceOp op : {ReduceOp::max, ReduceOp::min}) {
    reduce_parts(op, DType::f32, parts.data(), 2, 2, out.data());
    EXPECT_TRUE(std::isnan(out[0]));
    EXPECT_TRUE(std::isnan(out[1]));
  }
}

TEST(Reduction, ManyBlocksAndThreadsAgreeWithAPlainLoop) {
  const std::int64_t n = 70001;  // several blocks and threads, none of them whole
  const int ranks = 5;
  std::vector<float> parts(static_cast<std::size_t>(n * ranks));
  for (std::size_t i = 0; i < parts.size(); ++i) parts[i] = std::sin(static_cast<float>(i));
  std::vector<float> expected(parts.begin(), parts.begin() + n);
  for (std::int64_t r = 1; r < ranks; ++r) {
    for (std::int64_t i = 0; i < n; ++i) {
      expected[static_cast<std::size_t>(i)] += parts[static_cast<std::size_t>(r * n + i)];
    }
  }
  reduce_parts(ReduceOp::sum, DType::f32, parts.data(), ranks, n, parts.data() + 2 * n);  // over a part
  EXPECT_TRUE(std::equal(expected.begin(), expected.end(), parts.begin() + 2 * n));
}

TEST(Reduction, NothingIsNothing) { reduce_parts(ReduceOp::sum, DType::f32, nullptr, 3, 0, nullptr); }

}  // namespace
}  // namespace xmoe
