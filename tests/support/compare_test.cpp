// The comparison must fail where it should: everything else rests on it.
#include "support/compare.h"

#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <limits>
#include <vector>

namespace xmoe {
namespace {

constexpr double kNan = std::numeric_limits<double>::quiet_NaN();
constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr Tolerance kPercent{.relative = 1e-2, .of_rms = 1e-3, .norm = 1e-2};

bool passes(const std::vector<double>& actual, const std::vector<double>& expected,
            const Tolerance& tolerance = kPercent) {
  return compare(actual, expected, tolerance, "x").ok;
}

TEST(Compare, AcceptsEqualAndRounded) {
  EXPECT_TRUE(passes({}, {}));
  EXPECT_TRUE(passes({1.0, -2.0, 0.0}, {1.0, -2.0, 0.0}));
  EXPECT_TRUE(passes({1.005, -2.0, 0.0}, {1.0, -2.0, 0.0}));
}

TEST(Compare, RejectsAnotherSize) { EXPECT_FALSE(passes({1.0}, {1.0, 1.0})); }

TEST(Compare, RejectsOneWrongElementAmongMany) {
  std::vector<double> expected(1000, 1.0);
  std::vector<double> actual = expected;
  actual[713] = 1.02;  // too small to show in the norm
  const Comparison c = compare(actual, expected, kPercent, "x");
  EXPECT_FALSE(c.ok);
  EXPECT_NE(c.message.find("worst at 713: got 1.02, expected 1,"), std::string::npos) << c.message;
}

TEST(Compare, RejectsManySmallErrorsByTheNorm) {
  const std::vector<double> expected(1000, 1.0);
  const std::vector<double> actual(1000, 1.009);
  EXPECT_TRUE(passes(actual, expected));
  Tolerance tight = kPercent;
  tight.norm = 1e-3;
  EXPECT_FALSE(passes(actual, expected, tight));
}

TEST(Compare, NeverAcceptsWhatIsNotFinite) {
  const Tolerance any{.relative = 1e9, .of_rms = 1e9, .norm = 1e9, .absolute = 1e9};
  EXPECT_FALSE(passes({kNan, 1.0}, {1.0, 1.0}, any));
  EXPECT_FALSE(passes({1.0, 1.0}, {kNan, 1.0}, any));
  EXPECT_FALSE(passes({kNan}, {kNan}, any));
  EXPECT_FALSE(passes({kInfinity}, {1.0}, any));
  EXPECT_FALSE(passes({kInfinity}, {kInfinity}, any));
}

TEST(Compare, NeverAcceptsTheWrongSign) {
  // However generous: a relative error of 2 is what a flipped sign gives.
  const Tolerance generous{.relative = 3.0, .of_rms = 1e-3, .norm = 10.0};
  EXPECT_TRUE(passes({2.0, 1.0}, {1.0, 1.0}, generous));
  EXPECT_FALSE(passes({-1.0, 1.0}, {1.0, 1.0}, generous));
  EXPECT_FALSE(passes({-1e-6, -1e-6}, {1e-6, 1e-6}));  // all small, all wrong
}

TEST(Compare, NeverAcceptsAnythingForZero) {
  EXPECT_FALSE(passes({1e-30, 0.0}, {0.0, 0.0}));
  Tolerance with_floor = kPercent;
  with_floor.absolute = 1e-20;
  EXPECT_TRUE(passes({1e-30, 0.0}, {0.0, 0.0}, with_floor));
}

TEST(Compare, TolerancesFollowDtypeAndLength) {
  EXPECT_LT(tolerance_for(DType::f32).relative, tolerance_for(DType::bf16).relative);
  EXPECT_LT(tolerance_for(DType::f32, 1).relative, tolerance_for(DType::f32, 4096).relative);
  EXPECT_LT(tolerance_for(DType::f32, 4096).relative, 1e-4);
  EXPECT_LT(tolerance_for(DType::bf16).relative, 1.0 / 128.0);
  // One unit in the last place of bf16 is two roundings: it must not pass as one.
  EXPECT_FALSE(passes({1.0078125}, {1.0}, tolerance_for(DType::bf16)));
}

TEST(Compare, TensorsAreReadByDtype) {
  std::array<bf16, 3> storage;
  const Tensor t(storage.data(), DType::bf16, {3});
  from_doubles(std::vector<double>{1.0, -0.5, 1.00390625}, t);  // the last lies half-way and goes to even
  EXPECT_EQ(to_doubles(t), (std::vector<double>{1.0, -0.5, 1.0}));
  std::array<std::int32_t, 2> ids;
  const Tensor i(ids.data(), DType::i32, {2});
  from_doubles(std::vector<double>{7.0, -1.0}, i);
  EXPECT_EQ(to_doubles(i), (std::vector<double>{7.0, -1.0}));
}

TEST(Compare, BitsTellZeroesApart) {
  std::array<float, 2> a = {1.0F, 0.0F};
  std::array<float, 2> b = {1.0F, -0.0F};
  const Tensor ta(a.data(), DType::f32, {2});
  const Tensor tb(b.data(), DType::f32, {2});
  EXPECT_OK(compare_bits(ta, ta, "x"));
  EXPECT_FALSE(compare_bits(ta, tb, "x").ok);
  EXPECT_FALSE(compare_bits(ta, ta.reshape({1, 2}), "x").ok);
}

}  // namespace
}  // namespace xmoe
