// Pilots: of the ranks of a node that serve a token, the one that receives its row from another node and
// passes it on (X-MoE, SC'25, section 4.2, which draws it at random). Here the least loaded one is taken, so
// that no rank of a node receives much more than another.
#pragma once

#include <cstdint>
#include <span>

#include "moe/dispatch/node_map.h"

namespace xmoe {

// For each of n rows that rank `source` sends to another node: candidates[begin[i] .. begin[i + 1]) are the
// ranks that serve it there, at least one, all of one node, each once. pilots[i] becomes one of them. Rows
// without a choice count first; then each row, in order, goes to the candidate with the fewest so far. Ties
// go to the first in an order of the node's ranks that is rotated by the source, so that sources, which do
// not know of each other, do not all begin with the same rank. Depends on nothing else. O(candidates).
void choose_pilots(const NodeMap& nodes, int source,
                   std::span<const std::int32_t> begin,       // [n + 1]
                   std::span<const std::int32_t> candidates,  // [begin[n]]
                   std::span<std::int32_t> pilots);           // [n]; written

}  // namespace xmoe
