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
