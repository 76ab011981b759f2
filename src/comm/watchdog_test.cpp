#include "comm/watchdog.h"

#include <gtest/gtest.h>

#include <atomic>
#include <future>

#include "base/error.h"
#include "base/profile.h"

namespace xmoe {
namespace {

TEST(Watchdog, ReportsACollectiveThatDoesNotEnd) {
  const auto world = make_self_communicator();
  std::promise<std::string> reported;
  WatchdogOptions options;
  options.limit_seconds = 0.01;
  options.on_hang = [&](const std::string& message) { reported.set_value(message); };  // a second call throws
  const Watchdog watchdog(*world, options);
  const std::string group = "ep";
  const profile::LayerScope layer(7);
  const PendingScope pending("exchange", group);
  const std::string message = reported.get_future().get();
  EXPECT_NE(message.find(" s in exchange of the group ep (layer 7)"), std::string::npos) << message;
  std::this_thread::sleep_for(std::chrono::milliseconds(250));  // it looks again, and has said it
}

TEST(Watchdog, LeavesAProcessThatIsStuckAfterAStop) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  const auto stuck = [] {
    const auto world = make_self_communicator();
    WatchdogOptions options;
    options.stop_seconds = 1.0;
    options.stopping = [] { return true; };
    const Watchdog watchdog(*world, options);
    const std::string group = "dp";
    const PendingScope pending("barrier", group);
    std::promise<void>().get_future().wait();
  };
  EXPECT_EXIT(stuck(), testing::ExitedWithCode(1),
              "asked to stop while waiting in barrier of the group dp;.*\n.*"
              "still waiting in barrier of the group dp: another rank");
}

TEST(PendingCollective, NamesTheInnermost) {
  EXPECT_EQ(pending_operation(), "");
  const std::string group = "tp";
  {
    const PendingScope outer("split", group);
    const auto first = pending_collective();
    ASSERT_TRUE(first);
    {
      const profile::LayerScope layer(0);
      const PendingScope inner("all_gather", group);
      EXPECT_EQ(pending_operation(), "all_gather of the group tp (layer 0)");
      EXPECT_NE(pending_collective()->serial, first->serial);
    }
    EXPECT_EQ(pending_operation(), "split of the group tp");
    EXPECT_EQ(pending_collective()->serial, first->serial);
  }
  EXPECT_EQ(pending_operation(), "");
}

// Work on a device, as far as one can tell without one.
class Work final : public QueuedWork {
 public:
  explicit Work(std::atomic<int>& state) : state_(state) {}
  bool finished() override {
    if (state_ < 0) throw Error("the other end is gone");
    return state_ > 0;
  }

 private:
  std::atomic<int>& state_;
};

TEST(PendingCollective, NamesTheFirstOfTheQueueThatIsNotDone) {
  std::atomic<int> first = 0;
  std::atomic<int> second = 0;
  const std::string group = "ep";
  watch_queued(std::make_unique<Work>(first), "exchange", group, &first);
  watch_queued(std::make_unique<Work>(second), "all_reduce", group, &second);
  EXPECT_EQ(pending_operation(), "exchange of the group ep");
  {
    const PendingScope host("barrier", group);
    EXPECT_EQ(pending_operation(), "barrier of the group ep");  // what the host waits in comes first
  }
  first = 1;
  EXPECT_EQ(pending_operation(), "all_reduce of the group ep");
  second = -1;
  EXPECT_EQ(pending_collective()->failure, "the other end is gone");
  EXPECT_THROW(watch_queued(std::make_unique<Work>(first), "exchange", group, &first), Error);
  forget_queued(&second);
  EXPECT_EQ(pending_operation(), "");
}

TEST(Watchdog, ReportsWorkOnADeviceThatDoesNotEnd) {
  const auto world = make_self_communicator();
  std::atomic<int> state = 0;
  const std::string group = "edp";
  watch_queued(std::make_unique<Work>(state), "reduce_scatter", group, &state);
  std::promise<std::string> reported;
  WatchdogOptions options;
  options.limit_seconds = 0.01;
  options.on_hang = [&](const std::string& message) { reported.set_value(message); };
  {
    const Watchdog watchdog(*world, options);
    EXPECT_NE(reported.get_future().get().find("reduce_scatter of the group edp"), std::string::npos);
  }
  forget_queued(&state);
}

}  // namespace
}  // namespace xmoe
