#include "moe/dispatch/pilots.h"

#include <fmt/core.h>
#include <gtest/gtest.h>

#include "moe/dispatch/redundancy.h"
#include "moe/dispatch/synthetic.h"
#include "support/pilot_load.h"

namespace xmoe {
namespace {

std::vector<std::int32_t> pilots(const NodeMap& nodes, int source,
                                 const std::vector<std::vector<std::int32_t>>& rows) {
  std::vector<std::int32_t> begin = {0};
  std::vector<std::int32_t> candidates;
  for (const auto& row : rows) {
    candidates.insert(candidates.end(), row.begin(), row.end());
    begin.push_back(static_cast<std::int32_t>(candidates.size()));
  }
  std::vector<std::int32_t> chosen(rows.size());
  choose_pilots(nodes, source, begin, candidates, chosen);
  return chosen;
}

TEST(NodeMap, NumbersNodesByTheirFirstRank) {
  const int names[] = {7, 7, 3, 7, 3};
  const NodeMap map(names, 5);
  EXPECT_EQ(map.nodes(), 2);
  EXPECT_EQ(map.node_of, (std::vector<int>{0, 0, 1, 0, 1}));
  EXPECT_EQ(map.place_of, (std::vector<int>{0, 1, 0, 2, 1}));
  EXPECT_EQ(map.on(1), (std::vector<int>{2, 4}));
  EXPECT_EQ(map.largest(), 3);
  EXPECT_EQ(NodeMap({}, 4).nodes(), 1);
}

TEST(Pilots, RowsWithoutAChoiceCountFirstThenTheLeastLoadedIsTaken) {
  const int names[] = {0, 0, 1, 1};
  const NodeMap nodes(names, 4);
  // Row 2 can only go to rank 2, so row 0 goes to rank 3 although rank 2 comes first in the order.
  EXPECT_EQ(pilots(nodes, 0, {{2, 3}, {2, 3}, {2}, {3}, {2, 3}}), (std::vector<std::int32_t>{2, 3, 2, 3, 2}));
  EXPECT_EQ(pilots(nodes, 0, {{2, 3}, {2}}), (std::vector<std::int32_t>{3, 2}));
}

TEST(Pilots, SourcesBeginWithDifferentRanks) {
  const int names[] = {0, 0, 1, 1};
  const NodeMap nodes(names, 4);
  EXPECT_EQ(pilots(nodes, 0, {{2, 3}}), (std::vector<std::int32_t>{2}));
  EXPECT_EQ(pilots(nodes, 1, {{2, 3}}), (std::vector<std::int32_t>{3}));
  EXPECT_EQ(pilots(nodes, 0, {}), (std::vector<std::int32_t>{}));
}

TEST(Pilots, AreSpreadMoreEvenlyThanAtRandom) {
  constexpr std::int64_t kExperts = 256;
  for (const int nodes : {2, 4}) {
    std::vector<int> names;
    for (int r = 0; r < 8 * nodes; ++r) names.push_back(r / 8);
    const NodeMap map(names, 8 * nodes);
    for (const double zipf : {0.0, 0.8, 1.2}) {
      Arena arena({}, MemoryTag::workspace);
      std::vector<double> chosen(names.size(), 0.0);
      std::vector<double> random = chosen;
      for (int source = 0; source < map.ranks(); ++source) {
        const auto routing = synthetic_routing(arena, kExperts, 8, 512, zipf, source);
        const auto add = [&](std::vector<double>& sum, bool at_random) {
          const auto loads = pilot_loads(map, source, routing.top_experts, kExperts, at_random);
          for (std::size_t r = 0; r < sum.size(); ++r) sum[r] += loads[r];
        };
        add(chosen, false);
        add(random, true);
      }
      const double ours = pilot_imbalance(map, chosen);
      const double theirs = pilot_imbalance(map, random);
      fmt::print("{} nodes x 8 ranks, zipf {}: most / mean {:.4f} by choice, {:.4f} at random\n", nodes, zipf,
                 ours, theirs);
      EXPECT_LT(ours, theirs);
      if (zipf == 0.0) {
        EXPECT_LT(ours, 1.005);
      }
    }
  }
}

// The published figures for 256 experts, 8 per token (X-MoE, figure 5): 75.1 % and 54.8 %.
TEST(Redundancy, IsThePublishedOne) {
  EXPECT_NEAR(expected_redundancy(2, 256, 8), 0.751, 5e-4);
  EXPECT_NEAR(expected_redundancy(4, 256, 8), 0.548, 5e-4);
}

TEST(Redundancy, AtItsLimits) {
  EXPECT_DOUBLE_EQ(expected_redundancy(1, 64, 8), 1.0 - 1.0 / 8.0);
  EXPECT_DOUBLE_EQ(expected_redundancy(8, 64, 1), 0.0);
  EXPECT_DOUBLE_EQ(expected_redundancy(4, 4, 4), 0.0);  // each node has one expert: all are chosen
  // Two of four experts, three of which are on one node: it is always chosen, the other with probability 1/2.
  const std::int64_t uneven[] = {3, 1};
  EXPECT_DOUBLE_EQ(expected_redundancy(uneven, 2), 1.0 - 1.5 / 2.0);
}

TEST(SyntheticRouting, ChoosesDistinctExpertsAsOftenAsTheyArePopular) {
  Arena arena({}, MemoryTag::workspace);
  constexpr std::int64_t kTokens = 4000;
  for (const double zipf : {0.0, 1.0}) {
    const auto routing = synthetic_routing(arena, 16, 2, kTokens, zipf, 0);
    std::vector<std::int64_t> counts(16, 0);
    for (std::int64_t t = 0; t < kTokens; ++t) {
      const auto* chosen = routing.top_experts.data<std::int32_t>() + 2 * t;
      ASSERT_NE(chosen[0], chosen[1]);
      for (int j = 0; j < 2; ++j) ++counts[static_cast<std::size_t>(chosen[j])];
    }
    const auto [least, most] = std::minmax_element(counts.begin(), counts.end());
    if (zipf == 0.0) {  // 500 expected, standard deviation 21
      EXPECT_GT(*least, 400);
      EXPECT_LT(*most, 600);
    } else {
      EXPECT_GT(*most, 5 * *least);
    }
  }
}

}  // namespace
}  // namespace xmoe
