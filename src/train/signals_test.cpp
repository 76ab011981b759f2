#include "train/signals.h"

#include <gtest/gtest.h>

#include <csignal>

namespace xmoe {
namespace {

TEST(Signals, AreRemembered) {
  watch_stop_signals();
  EXPECT_EQ(stop_signal(), 0);
  raise(SIGTERM);
  EXPECT_EQ(stop_signal(), SIGTERM);
  raise(SIGTERM);  // a second SIGTERM does no harm: schedulers repeat it
  raise(SIGINT);   // the first SIGINT
  EXPECT_EQ(stop_signal(), SIGINT);
  watch_stop_signals();
  EXPECT_EQ(stop_signal(), 0);
}

TEST(SignalsDeathTest, SecondInterruptExits) {
  EXPECT_EXIT(
      {
        watch_stop_signals();
        raise(SIGINT);
        raise(SIGINT);
      },
      testing::ExitedWithCode(130), "exiting without saving");
}

}  // namespace
}  // namespace xmoe
