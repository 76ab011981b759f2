#include "moe/dispatch/redundancy.h"

#include <numeric>
#include <vector>

#include "base/error.h"

namespace xmoe {

double expected_redundancy(std::span<const std::int64_t> experts_on_node, std::int64_t top_k) {
  const std::int64_t experts =
      std::accumulate(experts_on_node.begin(), experts_on_node.end(), std::int64_t{0});
  XMOE_CHECK(top_k > 0 && top_k <= experts, "top {} of {} experts", top_k, experts);
  double pairs = 0.0;  // nodes that a token reaches
  for (const std::int64_t here : experts_on_node) {
    double missed = 1.0;
    for (std::int64_t i = 0; i < top_k; ++i) {
      const std::int64_t elsewhere = experts - here - i;
      missed *= elsewhere > 0 ? static_cast<double>(elsewhere) / static_cast<double>(experts - i) : 0.0;
    }
    pairs += 1.0 - missed;
  }
  return 1.0 - pairs / static_cast<double>(top_k);
}

double expected_redundancy(std::int64_t nodes, std::int64_t experts, std::int64_t top_k) {
  XMOE_CHECK(nodes > 0 && experts % nodes == 0, "{} experts on {} nodes", experts, nodes);
  const std::vector<std::int64_t> each(static_cast<std::size_t>(nodes), experts / nodes);
  return expected_redundancy(each, top_k);
}

}  // namespace xmoe
