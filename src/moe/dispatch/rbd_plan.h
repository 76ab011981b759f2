// Planning of redundancy-bypassing dispatch: who sends which row to whom. Three exchanges tell it, however
// many batches of tokens are planned: of counts, of the entries that cross to other nodes, and of those that
// stay or are passed on within a node. All on the host.
//
// P ranks of the expert-parallel group, m of the largest node.
#pragma once

#include <cstdint>
#include <numeric>
#include <span>
#include <vector>

#include "comm/communicator.h"
#include "moe/dispatch/dispatcher.h"
#include "moe/dispatch/node_map.h"

namespace xmoe {

// An assignment on the way to its expert, in the order of the rows that will take it.
struct Entry {
  static constexpr std::uint32_t kBeginsRow = std::uint32_t{1} << 31;

  std::uint32_t code = 0;  // expert; kBeginsRow: the first that its row serves
  float weight = 0.0F;

  std::int64_t expert() const { return code & ~kBeginsRow; }
  bool begins_row() const { return (code & kBeginsRow) != 0; }
};
static_assert(sizeof(Entry) == 8, "an entry travels as one i64");

// Where each of the parts begins that lie one behind another.
inline std::vector<std::int64_t> offsets(const std::vector<std::int64_t>& counts) {
  std::vector<std::int64_t> begin(counts.size());
  std::exclusive_scan(counts.begin(), counts.end(), begin.begin(), std::int64_t{0});
  return begin;
}

class RbdPlanner {
 public:
  RbdPlanner(Communicator& ep, Communicator& ep_node);

  const NodeMap& nodes() const { return nodes_; }
  // Both decided alike by all ranks of the group concerned.
  bool crosses() const { return nodes_.nodes() > 1; }
  bool relays() const { return ep_node_.size() > 1; }

  std::vector<DispatchPlan> plans(const Context& host, Arena& saved, std::span<const Pft> pfts) const;

 private:
  struct Assignments;
  struct Widths;
  struct Flow;
  struct Draft;
  int rank_of(std::int64_t expert, std::int64_t local_experts) const {
    return static_cast<int>(expert / local_experts);
  }
  Assignments sort_by_node(const Context& ctx, const Pft& pft) const;
  Widths count(const Assignments& sorted, RelayPlan& relay, Flow& flow) const;
  void exchange_counts(const Context& ctx, std::vector<Draft>& drafts) const;
  void size_arrays(Arena& saved, const Pft& pft, Draft& draft) const;
  void fill_own(const Context& ctx, const Pft& pft, Draft& draft) const;
  void exchange_crossing(const Context& ctx, std::vector<Draft>& drafts) const;
  void exchange_within(const Context& ctx, std::vector<Draft>& drafts) const;
  // From the entries that have crossed: what is passed on within the node, and its entries.
  void fill_relayed(const Context& ctx, Draft& draft) const;
  // From all entries received: the rows of the experts. By expert; within one own tokens first, then by
  // leg in the order of RelayPlan, rank and row.
  void complete(Draft& draft) const;

  Communicator& ep_;
  Communicator& ep_node_;
  NodeMap nodes_;
  int self_, node_;
};

}  // namespace xmoe
