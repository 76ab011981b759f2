// Planning of redundancy-bypassing dispatch: who sends which row to whom, from the routing of this rank and
// one exchange of counts; and what the entries that travel with the rows of the first dispatch add to it.
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

// An assignment on its way to its expert, behind the row that it belongs to.
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

  // All sizes, and what this rank's own routing tells. Collective: one exchange of counts over ep.
  std::vector<DispatchPlan> plans(const Context& ctx, Arena& saved, std::span<const Pft> pfts) const;
  // From the entries that came by crossing: what is passed on within the node, and its entries.
  void fill_relayed(DispatchPlan& plan,
                    const Tensor& crossed,         // [crossed entries] i64
                    const Tensor& relayed) const;  // [relayed entries to send] i64; written
  // From all entries received: the rows of the experts. By expert; within one own tokens first, then by
  // leg in the order of RelayPlan, rank and row.
  void complete(DispatchPlan& plan, const Tensor& crossed, const Tensor& own, const Tensor& relayed) const;

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
  void fill_own(DispatchPlan& plan, const Pft& pft, const Assignments& sorted) const;

  Communicator& ep_;
  NodeMap nodes_;
  int self_, node_;
};

}  // namespace xmoe
