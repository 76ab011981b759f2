#include "support/timeline.h"

#include <gtest/gtest.h>

namespace xmoe {
namespace {

TEST(Timeline, CountsWhatRunsSideBySideOnce) {
  const Timeline t = summarise({{110, 130, "a"}, {120, 140, "b"}, {150, 160, "a"}}, 100, 200);
  EXPECT_EQ(t.span, 100U);
  EXPECT_EQ(t.busy, 40U);  // 110 to 140, 150 to 160
  EXPECT_EQ(t.gaps, 3);
  EXPECT_EQ(t.longest_gap, 40U);  // behind 160
  EXPECT_DOUBLE_EQ(t.idle_share(), 0.6);
  ASSERT_EQ(t.entries.size(), 2U);
  EXPECT_EQ(t.entries[0].name, "a");
  EXPECT_EQ(t.entries[0].calls, 2);
  EXPECT_EQ(t.entries[0].total, 30U);
  EXPECT_EQ(t.entries[1].total, 20U);
}

TEST(Timeline, CutsAtBothEnds) {
  const Timeline t =
      summarise({{10, 50, "before"}, {90, 120, "over"}, {120, 200, "last"}, {150, 260, "behind"}}, 100, 200);
  EXPECT_EQ(t.busy, 100U);
  EXPECT_EQ(t.gaps, 0);
  ASSERT_EQ(t.entries.size(), 2U);
  EXPECT_EQ(t.entries[0].name, "last");
  EXPECT_EQ(t.entries[1].total, 20U);
}

TEST(Timeline, NothingHappened) {
  const Timeline t = summarise({}, 100, 200);
  EXPECT_EQ(t.busy, 0U);
  EXPECT_EQ(t.longest_gap, 100U);
  EXPECT_DOUBLE_EQ(t.idle_share(), 1.0);
}

}  // namespace
}  // namespace xmoe
