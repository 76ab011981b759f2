#include "moe/dispatch/pilots.h"

#include "base/error.h"

namespace xmoe {

void choose_pilots(const NodeMap& nodes, int source, std::span<const std::int32_t> begin,
                   std::span<const std::int32_t> candidates, std::span<std::int32_t> pilots) {
  XMOE_CHECK(begin.size() == pilots.size() + 1, "{} rows, {} offsets", pilots.size(), begin.size());
  std::vector<std::int64_t> load(static_cast<std::size_t>(nodes.ranks()), 0);
  const auto candidates_of = [&](std::size_t row) {
    return candidates.subspan(static_cast<std::size_t>(begin[row]),
                              static_cast<std::size_t>(begin[row + 1] - begin[row]));
  };
  for (std::size_t row = 0; row < pilots.size(); ++row) {
    const auto choice = candidates_of(row);
    if (choice.size() == 1) ++load[static_cast<std::size_t>(choice.front())];
  }
  // The place of a rank in the order in which this source favours the ranks of a node.
  std::vector<int> turn(load.size());
  for (int r = 0; r < nodes.ranks(); ++r)
    turn[static_cast<std::size_t>(r)] =
        (nodes.place(r) + source) % static_cast<int>(nodes.on(nodes.node(r)).size());
  for (std::size_t row = 0; row < pilots.size(); ++row) {
    const auto choice = candidates_of(row);
    std::int32_t pilot = choice.front();
    for (const std::int32_t rank : choice) {
      const auto least = load[static_cast<std::size_t>(pilot)];
      const auto mine = load[static_cast<std::size_t>(rank)];
      if (mine < least ||
          (mine == least && turn[static_cast<std::size_t>(rank)] < turn[static_cast<std::size_t>(pilot)]))
        pilot = rank;
    }
    if (choice.size() > 1) ++load[static_cast<std::size_t>(pilot)];
    pilots[row] = pilot;
  }
}

}  // namespace xmoe
