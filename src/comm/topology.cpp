#include "comm/topology.h"

#include <unistd.h>

#include <algorithm>
#include <array>

#include "base/error.h"

namespace xmoe {

namespace {

// For each rank the least rank that it shares memory with.
std::vector<std::int64_t> first_of_memory(Communicator& world) {
  std::int64_t first = world.split_by_memory("node")->all_reduce(std::int64_t{world.rank()}, ReduceOp::min);
  std::vector<std::int64_t> all(static_cast<std::size_t>(world.size()));
  world.all_gather(Tensor(&first, DType::i64, {1}), Tensor(all.data(), DType::i64, {world.size()}));
  return all;
}

}  // namespace

std::string host_name() {
  std::array<char, 256> name{};
  ::gethostname(name.data(), name.size() - 1);
  return name.data();
}

std::vector<int> Topology::ranks_of(int node) const {
  std::vector<int> ranks;
  for (std::size_t r = 0; r < node_of.size(); ++r)
    if (node_of[r] == node) ranks.push_back(static_cast<int>(r));
  return ranks;
}

Topology detect_topology(Communicator& world, int ranks_per_node) {
  if (ranks_per_node < 0)
    fail_everywhere("--ranks-per-node {} is negative: give the number of ranks on a node, or 0 to detect it",
                    ranks_per_node);
  const auto names = world.all_gather_text(host_name());
  std::vector<std::int64_t> first;
  if (ranks_per_node == 0) {
    first = first_of_memory(world);
  } else {
    for (int r = 0; r < world.size(); ++r) first.push_back(r - r % ranks_per_node);
  }
  Topology topology;
  std::vector<std::int64_t> seen;
  for (const std::int64_t f : first) {
    const auto found = std::find(seen.begin(), seen.end(), f);
    topology.node_of.push_back(static_cast<int>(found - seen.begin()));
    if (found == seen.end()) {
      seen.push_back(f);
      topology.host_names.push_back(names[static_cast<std::size_t>(f)]);
    }
  }
  world.set_nodes(topology.node_of);
  return topology;
}

}  // namespace xmoe
