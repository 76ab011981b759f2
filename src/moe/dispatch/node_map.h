// The ranks of a group by the node that they are on.
#pragma once

#include <algorithm>
#include <map>
#include <span>
#include <vector>

namespace xmoe {

struct NodeMap {
  std::vector<int> node_of;                // [ranks]; nodes are numbered in the order of their first rank
  std::vector<int> place_of;               // [ranks]: of a rank among those of its node
  std::vector<std::vector<int>> ranks_of;  // [nodes], ascending

  // `names`: a number for each rank, equal on ranks of one node; empty: all are on one.
  NodeMap(std::span<const int> names, int ranks) {
    std::map<int, int> number_of;
    for (int r = 0; r < ranks; ++r) {
      const int name = names.empty() ? 0 : names[static_cast<std::size_t>(r)];
      const auto [known, is_new] = number_of.try_emplace(name, static_cast<int>(ranks_of.size()));
      if (is_new) ranks_of.emplace_back();
      auto& together = ranks_of[static_cast<std::size_t>(known->second)];
      node_of.push_back(known->second);
      place_of.push_back(static_cast<int>(together.size()));
      together.push_back(r);
    }
  }

  int nodes() const { return static_cast<int>(ranks_of.size()); }
  int ranks() const { return static_cast<int>(node_of.size()); }
  int node(int rank) const { return node_of[static_cast<std::size_t>(rank)]; }
  int place(int rank) const { return place_of[static_cast<std::size_t>(rank)]; }
  const std::vector<int>& on(int node) const { return ranks_of[static_cast<std::size_t>(node)]; }
  int largest() const {  // ranks of the largest node
    std::size_t most = 0;
    for (const auto& together : ranks_of) most = std::max(most, together.size());
    return static_cast<int>(most);
  }
};

}  // namespace xmoe
