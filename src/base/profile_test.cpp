#include "base/profile.h"

#include <gtest/gtest.h>

#include <chrono>
#include <numeric>
#include <thread>

namespace xmoe::profile {
namespace {

class ProfileTest : public testing::Test {
 protected:
  void SetUp() override { enable(true); }
  void TearDown() override {
    take_events();
    enable(false);
  }
};

void pause() { std::this_thread::sleep_for(std::chrono::milliseconds(2)); }

double of(const Seconds& seconds, Activity activity) { return seconds[static_cast<std::size_t>(activity)]; }

TEST_F(ProfileTest, InnerTimeIsNotOuterTime) {
  {
    const Scope step(Activity::other);
    pause();
    {
      const LayerScope layer(1);
      const Scope experts(Activity::experts);
      pause();
    }
    {
      const LayerScope layer(0);
      pause();
    }
  }
  const auto rows = take();
  ASSERT_EQ(rows.size(), 3U);  // no layer, layer 0, layer 1
  EXPECT_GE(of(rows[0], Activity::other), 0.002);
  EXPECT_EQ(of(rows[0], Activity::experts), 0.0);
  EXPECT_GE(of(rows[2], Activity::experts), 0.002);
  EXPECT_GE(of(rows[1], Activity::other), 0.002);
  EXPECT_EQ(std::accumulate(rows[1].begin(), rows[1].end(), 0.0), of(rows[1], Activity::other));
  EXPECT_TRUE(take().empty());
}

TEST_F(ProfileTest, EventsNestAndStopAtTheLimit) {
  const Scope before(Activity::loss);  // open when the recording begins: not in it
  record_events(3);
  {
    const Scope outer(Activity::other);
    const LayerScope layer(4);
    const Scope inner(Activity::gating);
  }
  for (int i = 0; i < 3; ++i) const Scope more(Activity::combine);
  const Events taken = take_events();
  ASSERT_EQ(taken.events.size(), 3U);
  EXPECT_EQ(taken.lost, 2);
  const Event& inner = taken.events[0];
  const Event& outer = taken.events[1];
  EXPECT_EQ(inner.activity, Activity::gating);
  EXPECT_EQ(inner.layer, 4);
  EXPECT_EQ(outer.activity, Activity::other);
  EXPECT_EQ(outer.layer, -1);
  EXPECT_LE(0, outer.begin_ns);
  EXPECT_LE(outer.begin_ns, inner.begin_ns);
  EXPECT_LE(inner.begin_ns, inner.end_ns);
  EXPECT_LE(inner.end_ns, outer.end_ns);
  EXPECT_LE(outer.end_ns, taken.events[2].begin_ns);
  { const Scope after(Activity::loss); }
  EXPECT_TRUE(take_events().events.empty());
}

TEST(Profile, OffItCountsNothing) {
  enable(false);
  { const Scope scope(Activity::experts); }
  EXPECT_TRUE(take().empty());
}

}  // namespace
}  // namespace xmoe::profile
