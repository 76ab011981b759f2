// How many of the rows that a flat dispatch sends say again what the node has been told.
#pragma once

#include <cstdint>
#include <span>

namespace xmoe {

// 1 - distinct (token, node) pairs / assignments, expected for tokens that choose `top_k` of all experts
// uniformly: one of N nodes, with En of E experts, is chosen with probability 1 - C(E - En, k) / C(E, k).
double expected_redundancy(std::span<const std::int64_t> experts_on_node, std::int64_t top_k);
// The same for experts that are spread evenly.
double expected_redundancy(std::int64_t nodes, std::int64_t experts, std::int64_t top_k);

}  // namespace xmoe
