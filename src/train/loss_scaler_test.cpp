#include "train/loss_scaler.h"

#include <gtest/gtest.h>

#include <cmath>
#include <string>

namespace xmoe {
namespace {

// 'x': an overflow, '.': none.
void feed(LossScaler& scaler, const std::string& course) {
  for (const char c : course) scaler.update(c == 'x');
}

LossScaleConfig dynamic(double initial, double minimum, std::int64_t window, std::int64_t hysteresis) {
  return {
      .constant = 0.0, .initial = initial, .minimum = minimum, .window = window, .hysteresis = hysteresis};
}

TEST(LossScaler, WithoutSettingsItIsOneForEver) {
  LossScaler scaler;
  feed(scaler, "x.x...");
  EXPECT_EQ(scaler.scale(), 1.0);
  EXPECT_FALSE(scaler.dynamic());
  EXPECT_FALSE(scaler.can_fall());
}

TEST(LossScaler, StartsWhereMegatronDoes) {
  const LossScaler scaler{LossScaleConfig{}};
  EXPECT_EQ(scaler.scale(), 4294967296.0);
  EXPECT_TRUE(scaler.dynamic());
  EXPECT_EQ(scaler.state().hysteresis_tracker, 2);
  EXPECT_EQ(scaler.state().growth_tracker, 0);
}

TEST(LossScaler, FallsOnceHysteresisIsUsedUpAndThenAtEveryOverflow) {
  LossScaler scaler{dynamic(1024, 1, 1000, 3)};
  feed(scaler, "xx");
  EXPECT_EQ(scaler.scale(), 1024.0);
  feed(scaler, "x");
  EXPECT_EQ(scaler.scale(), 512.0);
  feed(scaler, "..x");  // what was used up has not come back
  EXPECT_EQ(scaler.scale(), 256.0);
  feed(scaler, "xx");
  EXPECT_EQ(scaler.scale(), 64.0);
}

TEST(LossScaler, OverflowsNeedNotFollowEachOther) {
  LossScaler scaler{dynamic(1024, 1, 1000, 2)};
  feed(scaler, "x...");
  EXPECT_EQ(scaler.scale(), 1024.0);
  feed(scaler, "x");
  EXPECT_EQ(scaler.scale(), 512.0);
}

TEST(LossScaler, GrowsAfterAWindowWithoutOverflow) {
  LossScaler scaler{dynamic(8, 1, 4, 2)};
  feed(scaler, "...");
  EXPECT_EQ(scaler.scale(), 8.0);
  feed(scaler, ".");
  EXPECT_EQ(scaler.scale(), 16.0);
  EXPECT_EQ(scaler.state().growth_tracker, 0);
  feed(scaler, "...x...");  // the overflow begins the window anew
  EXPECT_EQ(scaler.scale(), 16.0);
  feed(scaler, ".");
  EXPECT_EQ(scaler.scale(), 32.0);
}

TEST(LossScaler, HysteresisComesBackWithGrowthAlone) {
  LossScaler scaler{dynamic(64, 1, 3, 2)};
  feed(scaler, "xx");
  EXPECT_EQ(scaler.scale(), 32.0);
  EXPECT_EQ(scaler.state().hysteresis_tracker, 0);
  feed(scaler, "...");
  EXPECT_EQ(scaler.scale(), 64.0);
  EXPECT_EQ(scaler.state().hysteresis_tracker, 2);
  feed(scaler, "x");
  EXPECT_EQ(scaler.scale(), 64.0);
  feed(scaler, "x");
  EXPECT_EQ(scaler.scale(), 32.0);
}

TEST(LossScaler, DoesNotFallBelowItsMinimum) {
  LossScaler scaler{dynamic(8, 3, 1000, 1)};
  feed(scaler, "x");
  EXPECT_EQ(scaler.scale(), 4.0);
  EXPECT_TRUE(scaler.can_fall());
  feed(scaler, "x");
  EXPECT_EQ(scaler.scale(), 3.0);
  EXPECT_FALSE(scaler.can_fall());
  feed(scaler, "x");
  EXPECT_EQ(scaler.scale(), 3.0);
}

TEST(LossScaler, AConstantScaleStays) {
  LossScaler scaler{LossScaleConfig{.constant = 128.0}};
  feed(scaler, "xxxx");
  EXPECT_EQ(scaler.scale(), 128.0);
  EXPECT_FALSE(scaler.dynamic());
  EXPECT_FALSE(scaler.can_fall());
  scaler.restore({.scale = 4.0, .growth_tracker = 1, .hysteresis_tracker = 1});
  EXPECT_EQ(scaler.scale(), 128.0);
}

// Restored at any point, it goes on as the one that never stopped.
TEST(LossScaler, GoesOnWhereItWas) {
  const std::string course = "xx..x......x.x........xx...........";
  for (std::size_t cut = 0; cut <= course.size(); ++cut) {
    LossScaler whole{dynamic(1024, 1, 4, 2)};
    LossScaler first = whole;
    LossScaler second = whole;
    feed(whole, course);
    feed(first, course.substr(0, cut));
    second.restore(first.state());
    feed(second, course.substr(cut));
    EXPECT_EQ(second.state(), whole.state()) << cut;
  }
}

}  // namespace
}  // namespace xmoe
