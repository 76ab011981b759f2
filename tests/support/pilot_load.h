// How evenly the rows that cross to a node are spread over its ranks, by the choice of pilots and at random.
#pragma once

#include <algorithm>
#include <vector>

#include "base/rng.h"
#include "device/tensor.h"
#include "moe/dispatch/pilots.h"

namespace xmoe {

// Rows that each rank receives from `source` as a pilot. `at_random`: as published, a candidate drawn by lot;
// else choose_pilots().
inline std::vector<double> pilot_loads(const NodeMap& nodes, int source,
                                       const Tensor& top_experts,  // [T, k] i32
                                       std::int64_t experts, bool at_random) {
  const std::int64_t k = top_experts.dim(1);
  std::vector<std::int32_t> begin = {0};
  std::vector<std::int32_t> candidates;
  for (std::int64_t t = 0; t < top_experts.dim(0); ++t) {
    std::vector<std::vector<int>> ranks(static_cast<std::size_t>(nodes.nodes()));
    for (std::int64_t j = 0; j < k; ++j) {
      const int rank =
          static_cast<int>(top_experts.data<std::int32_t>()[t * k + j] / (experts / nodes.ranks()));
      auto& there = ranks[static_cast<std::size_t>(nodes.node(rank))];
      if (std::find(there.begin(), there.end(), rank) == there.end()) there.push_back(rank);
    }
    for (int n = 0; n < nodes.nodes(); ++n) {
      const auto& there = ranks[static_cast<std::size_t>(n)];
      if (n == nodes.node(source) || there.empty()) continue;
      candidates.insert(candidates.end(), there.begin(), there.end());
      begin.push_back(static_cast<std::int32_t>(candidates.size()));
    }
  }
  std::vector<std::int32_t> pilots(begin.size() - 1);
  if (at_random) {
    const Rng rng(2, "pilots of rank " + std::to_string(source));
    for (std::size_t i = 0; i < pilots.size(); ++i)
      pilots[i] = candidates[static_cast<std::size_t>(begin[i]) +
                             rng.below(i, static_cast<std::uint64_t>(begin[i + 1] - begin[i]))];
  } else {
    choose_pilots(nodes, source, begin, candidates, pilots);
  }
  std::vector<double> loads(static_cast<std::size_t>(nodes.ranks()), 0.0);
  for (const std::int32_t pilot : pilots) ++loads[static_cast<std::size_t>(pilot)];
  return loads;
}

// Most over mean of the ranks of a node, for the node where it is worst; 1 is even. loads: of all sources.
inline double pilot_imbalance(const NodeMap& nodes, const std::vector<double>& loads) {
  double worst = 1.0;
  for (const auto& ranks : nodes.ranks_of) {
    double most = 0.0;
    double total = 0.0;
    for (const int r : ranks) {
      most = std::max(most, loads[static_cast<std::size_t>(r)]);
      total += loads[static_cast<std::size_t>(r)];
    }
    if (total > 0.0) worst = std::max(worst, most * static_cast<double>(ranks.size()) / total);
  }
  return worst;
}

}  // namespace xmoe
