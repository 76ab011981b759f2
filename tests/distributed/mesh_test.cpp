// Groups and nodes of real ranks.
#include "comm/mesh.h"

#include <gtest/gtest.h>

#include <vector>

#include "base/error.h"
#include "comm/link_rates.h"
#include "comm/topology.h"
#include "distributed/support.h"

namespace xmoe {
namespace {

using distributed::world;

std::vector<int> members(Communicator& group) {
  std::int64_t rank = world().rank();
  std::vector<std::int64_t> all(static_cast<std::size_t>(group.size()));
  group.all_gather(Tensor(&rank, DType::i64, {1}), Tensor(all.data(), DType::i64, {group.size()}));
  return {all.begin(), all.end()};
}

std::vector<int> nodes_of(const Communicator& group) { return {group.nodes().begin(), group.nodes().end()}; }

// World ranks, ascending, for which `belongs` is true.
template <typename F>
std::vector<int> ranks_where(F belongs) {
  std::vector<int> ranks;
  for (int r = 0; r < world().size(); ++r)
    if (belongs(r)) ranks.push_back(r);
  return ranks;
}

TEST(MeshGroups, HaveTheRanksAndNodesOfTheLayout) {
  const int size = world().size();
  const int me = world().rank();
  const Topology topology = detect_topology(world(), 2);
  for (int tensor = 1; tensor <= size; tensor *= 2) {
    for (int expert = 1; expert <= size; expert *= 2) {
      for (const bool ted : {false, true}) {
        for (const auto placement : {ExpertPlacement::ep_first, ExpertPlacement::dp_first}) {
          const ParallelLayout layout = {tensor, expert, ted, placement};
          if (!layout_problem(layout, size).empty()) continue;
          const Mesh mesh(world(), layout);
          const auto groups = [&](int r) { return expert_groups(layout, size, r); };
          const auto same_node = [&](int r) {
            return topology.node_of[static_cast<std::size_t>(r)] ==
                   topology.node_of[static_cast<std::size_t>(me)];
          };
          EXPECT_EQ(members(mesh.tp()), ranks_where([&](int r) { return r / tensor == me / tensor; }));
          EXPECT_EQ(members(mesh.dp()), ranks_where([&](int r) { return r % tensor == me % tensor; }));
          EXPECT_EQ(members(mesh.ep()), ranks_where([&](int r) { return groups(r).ep == groups(me).ep; }));
          EXPECT_EQ(members(mesh.edp()), ranks_where([&](int r) { return groups(r).edp == groups(me).edp; }));
          EXPECT_EQ(members(mesh.ep_node()),
                    ranks_where([&](int r) { return groups(r).ep == groups(me).ep && same_node(r); }));
          for (Communicator* group : {&mesh.tp(), &mesh.dp(), &mesh.ep(), &mesh.edp(), &mesh.ep_node()}) {
            if (group->size() == 1) continue;
            std::vector<int> expected;
            for (const int r : members(*group))
              expected.push_back(topology.node_of[static_cast<std::size_t>(r)]);
            EXPECT_EQ(nodes_of(*group), expected) << group->name();
          }
        }
      }
    }
  }
  world().set_nodes({});
}

TEST(DetectTopology, OfThisMachineIsOneNode) {
  const Topology topology = detect_topology(world());
  EXPECT_EQ(topology.node_of, std::vector<int>(static_cast<std::size_t>(world().size()), 0));
  EXPECT_EQ(topology.nodes(), 1);
  EXPECT_FALSE(world().on_other_node(world().size() - 1));
  const auto together = world().split_by_memory("node");
  EXPECT_EQ(together->size(), world().size());
  EXPECT_EQ(together->rank(), world().rank());
  world().set_nodes({});
}

TEST(DetectTopology, TakesSoManyRanksPerNode) {
  const int size = world().size();
  for (const int per_node : {1, 2, 3, 100}) {  // 3: the last node is shorter
    const Topology topology = detect_topology(world(), per_node);
    std::vector<int> expected;
    for (int r = 0; r < size; ++r) expected.push_back(r / per_node);
    EXPECT_EQ(topology.node_of, expected);
    EXPECT_EQ(nodes_of(world()), expected);
    EXPECT_EQ(topology.nodes(), (size + per_node - 1) / per_node);
    EXPECT_EQ(world().on_other_node(0), world().rank() >= per_node);
  }
  world().set_nodes({});
  EXPECT_THROW(detect_topology(world(), -1), Error);
}

// Which links there are; how fast they are is the machine's affair.
TEST(MeasureLinks, FindsTheLinksThatTheNodesHave) {
  const int size = world().size();
  const auto group = world().split(0, world().rank(), "links");
  for (const int per_node : {1, 3, 100}) {
    std::vector<int> nodes;
    for (int r = 0; r < size; ++r) nodes.push_back(r / per_node);
    group->set_nodes(nodes);
    const LinkRates rates = measure_links(*group);
    EXPECT_EQ(rates.within_node > 0, size > 1 && per_node > 1);
    EXPECT_EQ(rates.between_nodes > 0, size > per_node);
    // Decisions are built on it: all ranks must take the same.
    EXPECT_EQ(group->all_reduce(rates.within_node, ReduceOp::max), rates.within_node);
    EXPECT_EQ(group->all_reduce(rates.between_nodes, ReduceOp::max), rates.between_nodes);
  }
}

}  // namespace
}  // namespace xmoe
