#include "comm/mesh.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <iterator>
#include <map>
#include <vector>

#include "base/error.h"
#include "comm/topology.h"

namespace xmoe {
namespace {

using Groups = std::vector<std::vector<int>>;  // members of each group, by its number

struct Split {
  Groups ep, edp;
};

Split split(const ParallelLayout& layout, int ranks) {
  std::map<int, std::vector<int>> ep;
  std::map<int, std::vector<int>> edp;
  for (int r = 0; r < ranks; ++r) {
    const ExpertGroups groups = expert_groups(layout, ranks, r);
    ep[groups.ep].push_back(r);
    edp[groups.edp].push_back(r);
  }
  Split result;
  for (auto& [number, members] : ep) result.ep.push_back(members);
  for (auto& [number, members] : edp) result.edp.push_back(members);
  return result;
}

TEST(ExpertGroups, EpFirstFillsNodesWithOneGroup) {
  const Split s = split({.expert = 4}, 8);
  EXPECT_EQ(s.ep, (Groups{{0, 1, 2, 3}, {4, 5, 6, 7}}));
  EXPECT_EQ(s.edp, (Groups{{0, 4}, {1, 5}, {2, 6}, {3, 7}}));
}

TEST(ExpertGroups, DpFirstPutsReplicasSideBySide) {
  const Split s = split({.expert = 4, .placement = ExpertPlacement::dp_first}, 8);
  EXPECT_EQ(s.ep, (Groups{{0, 2, 4, 6}, {1, 3, 5, 7}}));
  EXPECT_EQ(s.edp, (Groups{{0, 1}, {2, 3}, {4, 5}, {6, 7}}));
}

TEST(ExpertGroups, SpanTensorParallelRanksUnlessExpertsAreCutOverThem) {
  EXPECT_EQ(split({.tensor = 2, .expert = 4}, 8).ep, (Groups{{0, 1, 2, 3}, {4, 5, 6, 7}}));
  const Split ted = split({.tensor = 2, .expert = 2, .expert_tensor = true}, 8);
  EXPECT_EQ(ted.ep, (Groups{{0, 2}, {1, 3}, {4, 6}, {5, 7}}));
  EXPECT_EQ(ted.edp, (Groups{{0, 4}, {1, 5}, {2, 6}, {3, 7}}));
  const Split far =
      split({.tensor = 2, .expert = 2, .expert_tensor = true, .placement = ExpertPlacement::dp_first}, 8);
  EXPECT_EQ(far.ep, (Groups{{0, 4}, {1, 5}, {2, 6}, {3, 7}}));
  EXPECT_EQ(far.edp, (Groups{{0, 2}, {1, 3}, {4, 6}, {5, 7}}));
}

// Every layout that fits: each expert's part once per ep group, and every rank in one of each.
TEST(ExpertGroups, EpAndEdpGroupsCross) {
  for (const int ranks : {1, 6, 8, 12}) {
    for (int tensor = 1; tensor <= ranks; ++tensor) {
      for (int expert = 1; expert <= ranks; ++expert) {
        for (const bool ted : {false, true}) {
          for (const auto placement : {ExpertPlacement::ep_first, ExpertPlacement::dp_first}) {
            const ParallelLayout layout = {tensor, expert, ted, placement};
            if (!layout_problem(layout, ranks).empty()) continue;
            const Split s = split(layout, ranks);
            const int planes = ted ? tensor : 1;
            EXPECT_EQ(static_cast<int>(s.ep.size()), ranks / expert);
            EXPECT_EQ(static_cast<int>(s.edp.size()), expert * planes);
            for (const auto& ep : s.ep) {
              EXPECT_EQ(static_cast<int>(ep.size()), expert);
              for (const auto& edp : s.edp) {
                std::vector<int> both;
                std::set_intersection(ep.begin(), ep.end(), edp.begin(), edp.end(), std::back_inserter(both));
                const bool one_plane = ep.front() % planes == edp.front() % planes;
                EXPECT_EQ(both.size(), one_plane ? 1U : 0U);
              }
            }
          }
        }
      }
    }
  }
}

TEST(LayoutProblem, NamesTheFlagAndWhatFits) {
  EXPECT_EQ(layout_problem({.tensor = 2, .expert = 8}, 8), "");
  EXPECT_EQ(layout_problem({.tensor = 4, .expert = 2, .expert_tensor = true}, 8), "");
  const std::string tensor = layout_problem({.tensor = 3}, 8);
  EXPECT_NE(tensor.find("--tensor-model-parallel-size 3 "), std::string::npos) << tensor;
  EXPECT_NE(tensor.find("what fits is 1, 2, 4, 8;"), std::string::npos) << tensor;
  const std::string expert = layout_problem({.expert = 5}, 12);
  EXPECT_NE(expert.find("--expert-model-parallel-size 5 "), std::string::npos) << expert;
  EXPECT_NE(expert.find("what fits is 1, 2, 3, 4, 6, 12;"), std::string::npos) << expert;
  const std::string ted = layout_problem({.tensor = 4, .expert = 4, .expert_tensor = true}, 8);
  EXPECT_NE(ted.find("--enable-expert-tensor-parallelism"), std::string::npos) << ted;
  EXPECT_NE(ted.find("what fits is 1, 2;"), std::string::npos) << ted;
  for (const std::int64_t none : {0, -1}) {
    EXPECT_NE(layout_problem({.tensor = none}, 8), "");
    EXPECT_NE(layout_problem({.expert = none}, 8), "");
  }
}

TEST(Mesh, IsDescribedForPeople) {
  const Topology topology = {{0, 0, 0, 0, 1, 1, 1, 1}, {"alpha", "b"}};
  EXPECT_EQ(describe({.tensor = 2, .expert = 4, .placement = ExpertPlacement::dp_first}, topology),
            "mesh of 8 ranks on 2 nodes: tp 2, dp 4, ep 4, edp 2; expert placement dp-first\n"
            "   node  host   ranks\n"
            "      0  alpha  0-3\n"
            "      1  b      4-7\n"
            "   rank   node       tp       dp       ep      edp\n"
            "      0      0      0:0      0:0      0:0      0:0\n"
            "      1      0      0:1      1:0      1:0      0:1\n"
            "      2      0      1:0      0:1      0:1      1:0\n"
            "      3      0      1:1      1:1      1:1      1:1\n"
            "      4      1      2:0      0:2      0:2      2:0\n"
            "      5      1      2:1      1:2      1:2      2:1\n"
            "      6      1      3:0      0:3      0:3      3:0\n"
            "      7      1      3:1      1:3      1:3      3:1\n"
            "  tp groups of 2 ranks stay within one node\n"
            "  dp groups of 4 ranks span 2 nodes\n"
            "  ep groups of 4 ranks span 2 nodes\n"
            "  edp groups of 2 ranks stay within one node\n");
}

TEST(Mesh, DescriptionSaysWhichGroupsCrossUnevenNodes) {
  const Topology topology = {{0, 0, 0, 1, 1, 0}, {"a", "b"}};
  const std::string text = describe({.expert = 3}, topology);
  EXPECT_NE(text.find("  a     0-2, 5\n"), std::string::npos) << text;
  EXPECT_NE(text.find("  ep groups of 3 ranks span 1 to 2 nodes\n"), std::string::npos) << text;
  EXPECT_NE(text.find("  the dp group of 6 ranks spans 2 nodes\n"), std::string::npos) << text;
}

TEST(Mesh, DescriptionOfManyRanksIsShort) {
  Topology topology;
  for (int r = 0; r < 1024; ++r) topology.node_of.push_back(r / 8);
  for (int n = 0; n < 128; ++n) topology.host_names.push_back(fmt::format("node{:03}", n));
  const std::string text = describe({.expert = 64}, topology);
  EXPECT_LT(std::count(text.begin(), text.end(), '\n'), 100);
  EXPECT_NE(text.find("  ... 984 more\n   1016    127"), std::string::npos) << text;
  EXPECT_NE(text.find("  ep groups of 64 ranks span 8 nodes\n"), std::string::npos) << text;
}

TEST(Topology, RanksOfANode) {
  const Topology topology = {{0, 1, 0, 1, 1}, {"a", "b"}};
  EXPECT_EQ(topology.nodes(), 2);
  EXPECT_EQ(topology.ranks_of(0), (std::vector<int>{0, 2}));
  EXPECT_EQ(topology.ranks_of(1), (std::vector<int>{1, 3, 4}));
}

}  // namespace
}  // namespace xmoe
