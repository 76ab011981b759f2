// Which rank sits on which node: a node is a set of ranks that reach each other faster than the others.
#pragma once

#include <string>
#include <vector>

#include "comm/communicator.h"
#include "comm/mesh.h"

namespace xmoe {

struct Topology {
  std::vector<int> node_of;             // [ranks]; nodes are numbered in the order of their first rank
  std::vector<std::string> host_names;  // [nodes]; of a node's first rank

  int nodes() const { return static_cast<int>(host_names.size()); }
  std::vector<int> ranks_of(int node) const;
};

std::string host_name();  // of this process

// Collective. Ranks that share memory make up a node; with ranks_per_node > 0 each run of so many consecutive
// ranks does (the last may be shorter). Tells `world` (set_nodes), from which groups inherit it. Throws Error
// on all ranks alike when ranks_per_node is negative.
Topology detect_topology(Communicator& world, int ranks_per_node = 0);

// Who sits where, for people: a table of nodes, one of ranks with their places in the groups of comm/mesh.h
// ("2:1" is place 1 of group 2), and a line for each kind of group on whether it crosses nodes. Long tables
// are shortened in the middle. Not collective. The layout fits the topology's ranks.
std::string describe(const ParallelLayout& layout, const Topology& topology);

}  // namespace xmoe
