#include "train/breakdown.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

namespace xmoe {
namespace {

using profile::Activity;

Spent& of(std::array<Spent, profile::kActivities>& row, Activity activity) {
  return row[static_cast<std::size_t>(activity)];
}

Breakdown example(std::size_t layers) {
  Breakdown b;
  b.rows.resize(layers + 1);
  of(b.rows[0], Activity::optimizer) = {2.0, 3.0};
  of(b.total, Activity::optimizer) = {2.0, 3.0};
  for (std::size_t l = 0; l < layers; ++l) {
    const double ms = 1.0 + static_cast<double>(l);
    of(b.rows[l + 1], Activity::experts) = {ms, 2 * ms};
    of(b.total, Activity::experts).mean += ms;
    of(b.total, Activity::experts).most += 2 * ms;
  }
  b.links = {{.group = "ep", .calls = 4, .bytes_within_nodes = 1e6, .bytes_between_nodes = 2.5e5},
             {.group = "tp", .calls = 0, .bytes_within_nodes = 0, .bytes_between_nodes = 0}};
  return b;
}

TEST(Breakdown, TableHasColumnsOfWhatTookTime) {
  EXPECT_EQ(breakdown_table(example(2)),
            "  ms per step    experts optimizer       sum\n"
            "  layer 0           1.00      0.00      1.00\n"
            "  layer 1           2.00      0.00      2.00\n"
            "  no layer          0.00      2.00      2.00\n"
            "  total             3.00      2.00      5.00\n"
            "  most of ranks     6.00      3.00      9.00\n"
            "  MB per step, inside nodes + between nodes:  ep 1.000 + 0.250");
}

TEST(Breakdown, ManyLayersAreLeastMeanAndMost) {
  const std::string table = breakdown_table(example(11));
  EXPECT_EQ(table.find("layer 0"), std::string::npos) << table;
  EXPECT_NE(table.find("  layers, least     1.00"), std::string::npos) << table;
  EXPECT_NE(table.find("  layers, mean      6.00"), std::string::npos) << table;
  EXPECT_NE(table.find("  layers, most     11.00"), std::string::npos) << table;
}

TEST(Breakdown, JsonHasAllLayers) {
  const auto json = nlohmann::json::parse(breakdown_json(example(11)));
  EXPECT_EQ(json["timers"]["layers"].size(), 11U);
  EXPECT_EQ(json["timers"]["layers"][10]["experts"]["mean"], 11.0);
  EXPECT_EQ(json["timers"]["no_layer"]["optimizer"]["max"], 3.0);
  EXPECT_EQ(json["timers"]["total"]["experts"]["mean"], 66.0);
  EXPECT_EQ(json["traffic"]["ep"]["bytes_between_nodes"], 2.5e5);
  EXPECT_EQ(json["traffic"]["tp"]["calls"], 0.0);
}

TEST(BreakdownCollector, CountsWhatHappensInSteps) {
  const auto world = make_self_communicator();
  const Mesh mesh(*world, 1);
  profile::enable(true);
  BreakdownCollector collector(mesh, 2);
  std::int64_t value = 1;
  for (int step = 0; step < 2; ++step) {
    { const profile::Scope between(Activity::loss); }
    collector.begin_step();
    {
      const profile::LayerScope layer(1);
      const profile::Scope scope(Activity::experts);
      world->all_reduce(Tensor(&value, DType::i64, {1}), ReduceOp::sum);
    }
    collector.end_step();
  }
  Breakdown b = collector.collect();
  profile::enable(false);
  EXPECT_EQ(of(b.total, Activity::loss).most, 0.0);
  EXPECT_GT(of(b.rows[2], Activity::experts).mean, 0.0);
  EXPECT_EQ(of(b.rows[2], Activity::experts).mean, of(b.total, Activity::experts).mean);
  EXPECT_EQ(of(b.rows[1], Activity::experts).mean, 0.0);
  ASSERT_EQ(b.links.front().group, "world");
  EXPECT_EQ(b.links.front().calls, 1.0);
}

}  // namespace
}  // namespace xmoe
