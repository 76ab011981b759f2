#include "base/progress.h"

#include <gtest/gtest.h>

namespace xmoe {
namespace {

TEST(Progress, Durations) {
  EXPECT_EQ(format_duration(0.0), "0 s");
  EXPECT_EQ(format_duration(12.4), "12 s");
  EXPECT_EQ(format_duration(59.6), "1:00");
  EXPECT_EQ(format_duration(245.0), "4:05");
  EXPECT_EQ(format_duration(3599.6), "1:00:00");
  EXPECT_EQ(format_duration(3723.0), "1:02:03");
  EXPECT_EQ(format_duration(360000.0), "100:00:00");
  EXPECT_EQ(format_duration(-5.0), "0 s");
}

TEST(Progress, EstimatesFromTheSpeedOfThisRun) {
  const Progress fresh("training", 100, "iterations");
  EXPECT_FALSE(fresh.seconds_left(0));
  const Progress resumed("training", 100, "iterations", 1.0, 90);
  EXPECT_FALSE(resumed.seconds_left(90));
  const Timer timer;
  while (timer.seconds() < 0.02) {
  }
  // One iteration of this run took the whole time, and nine are left; 91 iterations did not.
  EXPECT_GE(resumed.seconds_left(91).value(), 9 * 0.02);
  EXPECT_LT(fresh.seconds_left(91).value(), resumed.seconds_left(91).value() / 9);
  EXPECT_EQ(resumed.seconds_left(100).value(), 0.0);
}

TEST(Progress, NoEstimateWithoutATotal) {
  const Progress progress("reading", 0, "MB");
  EXPECT_FALSE(progress.seconds_left(5));
}

// Nothing is due at once where standard error is not a terminal.
TEST(Progress, ALogStaysReadable) {
  ::testing::internal::CaptureStderr();
  {
    Progress progress("reading", 10, "MB");
    for (int i = 0; i <= 10; ++i) progress.update(i);
    progress.finish();
  }
  EXPECT_EQ(::testing::internal::GetCapturedStderr(), "");
}

}  // namespace
}  // namespace xmoe
