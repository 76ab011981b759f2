#include <algorithm>
#include <set>

#include "base/error.h"
#include "comm/mesh.h"
#include "comm/topology.h"

namespace xmoe {

namespace {

// Rows of a table that are shown whole; of longer ones the first and the last.
constexpr int kWholeTable = 64;
constexpr int kFirstRows = 32;
constexpr int kLastRows = 8;

struct Place {
  int group = 0;
  int index = 0;
};

// A kind of group: the place of each rank in it, ordered by rank within a group.
struct Kind {
  std::string name;
  std::vector<Place> places;  // [ranks]

  template <typename GroupOf>
  Kind(std::string kind, int ranks, GroupOf group_of) : name(std::move(kind)) {
    std::vector<int> sizes;
    for (int r = 0; r < ranks; ++r) {
      const int group = group_of(r);
      if (group >= static_cast<int>(sizes.size())) sizes.resize(static_cast<std::size_t>(group) + 1);
      places.push_back({group, sizes[static_cast<std::size_t>(group)]++});
    }
  }
};

// Calls row(i) for the rows that are shown, gap(hidden) between them.
template <typename Row, typename Gap>
void shorten(int rows, Row row, Gap gap) {
  for (int i = 0; i < rows; ++i) {
    if (rows > kWholeTable && i == kFirstRows) {
      gap(rows - kFirstRows - kLastRows);
      i = rows - kLastRows;
    }
    row(i);
  }
}

std::string plural(int n, const char* what) { return fmt::format("{} {}{}", n, what, n == 1 ? "" : "s"); }

// "0-3, 6"
std::string ranges(const std::vector<int>& ranks) {
  std::string text;
  for (std::size_t i = 0; i < ranks.size();) {
    std::size_t end = i + 1;
    while (end < ranks.size() && ranks[end] == ranks[end - 1] + 1) ++end;
    text += fmt::format("{}{}", text.empty() ? "" : ", ", ranks[i]);
    if (end - i > 1) text += fmt::format("-{}", ranks[end - 1]);
    i = end;
  }
  return text;
}

std::string span_of(const Kind& kind, const Topology& topology) {
  std::vector<std::set<int>> nodes;  // of each group
  int size = 0;
  for (std::size_t r = 0; r < kind.places.size(); ++r) {
    const auto group = static_cast<std::size_t>(kind.places[r].group);
    if (group >= nodes.size()) nodes.resize(group + 1);
    nodes[group].insert(topology.node_of[r]);
    size = std::max(size, kind.places[r].index + 1);
  }
  const std::string groups = nodes.size() == 1
                                 ? fmt::format("the {} group of {}", kind.name, plural(size, "rank"))
                                 : fmt::format("{} groups of {}", kind.name, plural(size, "rank"));
  const auto [least, most] = std::minmax_element(
      nodes.begin(), nodes.end(), [](const auto& a, const auto& b) { return a.size() < b.size(); });
  const bool one = nodes.size() == 1;
  if (most->size() == 1) return fmt::format("{} {} within one node", groups, one ? "stays" : "stay");
  if (least->size() == most->size())
    return fmt::format("{} {} {} nodes", groups, one ? "spans" : "span", most->size());
  return fmt::format("{} span {} to {} nodes", groups, least->size(), most->size());
}

}  // namespace

std::string describe(const ParallelLayout& layout, const Topology& topology) {
  const int ranks = static_cast<int>(topology.node_of.size());
  const int tensor = static_cast<int>(layout.tensor);
  const Kind kinds[] = {
      {"tp", ranks, [&](int r) { return r / tensor; }},
      {"dp", ranks, [&](int r) { return r % tensor; }},
      {"ep", ranks, [&](int r) { return expert_groups(layout, ranks, r).ep; }},
      {"edp", ranks, [&](int r) { return expert_groups(layout, ranks, r).edp; }},
  };
  std::string text =
      fmt::format("mesh of {} on {}: tp {}, dp {}, ep {}, edp {}{}; expert placement {}\n",
                  plural(ranks, "rank"), plural(topology.nodes(), "node"), tensor, ranks / tensor,
                  layout.expert, ranks / layout.expert / (layout.expert_tensor ? tensor : 1),
                  layout.expert_tensor ? ", experts cut over tp" : "",
                  layout.placement == ExpertPlacement::ep_first ? "ep-first" : "dp-first");
  std::size_t host_width = 4;
  for (const std::string& host : topology.host_names) host_width = std::max(host_width, host.size());
  const auto gap = [&](int hidden) { text += fmt::format("  ... {} more\n", hidden); };
  text += fmt::format("  {:>5}  {:<{}}  {}\n", "node", "host", host_width, "ranks");
  shorten(
      topology.nodes(),
      [&](int n) {
        text += fmt::format("  {:>5}  {:<{}}  {}\n", n, topology.host_names[static_cast<std::size_t>(n)],
                            host_width, ranges(topology.ranks_of(n)));
      },
      gap);
  text += fmt::format("  {:>5}  {:>5}", "rank", "node");
  for (const Kind& kind : kinds) text += fmt::format("  {:>7}", kind.name);
  text += '\n';
  shorten(
      ranks,
      [&](int r) {
        const auto i = static_cast<std::size_t>(r);
        text += fmt::format("  {:>5}  {:>5}", r, topology.node_of[i]);
        for (const Kind& kind : kinds)
          text += fmt::format("  {:>7}", fmt::format("{}:{}", kind.places[i].group, kind.places[i].index));
        text += '\n';
      },
      gap);
  for (const Kind& kind : kinds) text += fmt::format("  {}\n", span_of(kind, topology));
  return text;
}

}  // namespace xmoe
