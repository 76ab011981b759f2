#include "train/trace.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/file.h"

namespace xmoe {
namespace {

using profile::Activity;

TEST(Trace, IsChromesFormat) {
  const std::vector<TraceTrack> tracks = {
      {.name = "rank 0 (node a\"b)",
       .events = {{.begin_ns = 1500, .end_ns = 2500, .layer = 3, .activity = Activity::gating},
                  {.begin_ns = 1000, .end_ns = 4000, .layer = -1, .activity = Activity::other}},
       .lost = 0},
      {.name = "rank 1 (node c)", .events = {}, .lost = 7}};
  const auto json = nlohmann::json::parse(trace_json(tracks));
  std::vector<std::string> names;
  std::vector<nlohmann::json> events;
  std::int64_t lost = 0;
  for (const auto& event : json.at("traceEvents")) {
    if (event.at("ph") == "X") events.push_back(event);
    if (event.at("name") == "process_name") names.push_back(event.at("args").at("name"));
    if (event.at("name") == "events_lost") lost += event.at("args").at("count").get<std::int64_t>();
  }
  EXPECT_EQ(names, (std::vector<std::string>{"rank 0 (node a\"b)", "rank 1 (node c)"}));
  EXPECT_EQ(lost, 7);
  ASSERT_EQ(events.size(), 2U);
  EXPECT_EQ(events[0].at("name"), "gating");
  EXPECT_EQ(events[0].at("pid"), 0);
  EXPECT_EQ(events[0].at("ts"), 1.5);  // microseconds
  EXPECT_EQ(events[0].at("dur"), 1.0);
  EXPECT_EQ(events[0].at("args").at("layer"), 3);
  EXPECT_EQ(events[1].at("dur"), 3.0);
  EXPECT_FALSE(events[1].contains("args"));
}

TEST(Trace, HoldsTheIterationsAskedFor) {
  const auto world = make_self_communicator();
  const Topology topology = detect_topology(*world);
  const auto file = std::filesystem::temp_directory_path() / ("xmoe-trace-" + std::to_string(getpid()));
  TraceRecorder recorder(file, 2, 2, /*keep_profiling=*/false);
  const std::vector<Activity> of_iteration = {Activity::gating, Activity::experts, Activity::combine,
                                              Activity::loss};
  for (std::int64_t i = 1; i <= 4; ++i) {
    recorder.before_iteration(i, *world);
    { const profile::Scope scope(of_iteration[static_cast<std::size_t>(i - 1)]); }
    recorder.after_iteration(i, *world, topology);
  }
  EXPECT_FALSE(profile::enabled());
  const std::string text = read_text_file(file);
  std::filesystem::remove(file);
  EXPECT_EQ(text.find("\"gating\""), std::string::npos);
  EXPECT_NE(text.find("\"experts\""), std::string::npos);
  EXPECT_NE(text.find("\"combine\""), std::string::npos);
  EXPECT_EQ(text.find("\"loss\""), std::string::npos);
  EXPECT_NE(text.find("rank 0 (node "), std::string::npos);
}

TEST(Trace, ARunThatEndsBeforeItSaysSo) {
  const auto world = make_self_communicator();
  const Topology topology = detect_topology(*world);
  const auto file = std::filesystem::temp_directory_path() / ("xmoe-no-trace-" + std::to_string(getpid()));
  const auto said = [&](std::int64_t begin) {
    TraceRecorder recorder(file, begin, 1, /*keep_profiling=*/false);
    testing::internal::CaptureStderr();
    recorder.before_iteration(1, *world);
    recorder.after_iteration(1, *world, topology);
    recorder.finish(*world, topology);
    return testing::internal::GetCapturedStderr();
  };
  EXPECT_NE(said(3).find("nothing is written, the run ended before its iteration 3"), std::string::npos);
  EXPECT_FALSE(std::filesystem::exists(file));
  EXPECT_EQ(said(1).find("nothing is written"), std::string::npos);
  EXPECT_TRUE(std::filesystem::remove(file));
}

TEST(Trace, WhereNothingCanBeWrittenIsFoundOutBefore) {
  EXPECT_THROW(prepare_trace_file("/dev/null/below"), Error);
  EXPECT_THROW(prepare_trace_file(std::filesystem::temp_directory_path()), Error);
}

}  // namespace
}  // namespace xmoe
