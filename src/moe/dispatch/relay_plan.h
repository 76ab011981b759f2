// What the two-stage dispatcher (redundancy-bypassing dispatch, docs/rbd.md) keeps of a routing. Rows travel
// on three legs:
//
//   crossing   over the expert-parallel group: a token's row to its pilot on another node, once per node
//   own        within the node: rows of own tokens to the other ranks of this node that serve them
//   relayed    within the node: rows that came by crossing to the other ranks that serve them
//
// A row travels once per (token, rank) whatever number of experts it serves there. Each assignment has an
// entry of 8 bytes, which takes the same way while plans are made.
#pragma once

#include <cstdint>
#include <numeric>
#include <vector>

#include "device/tensor.h"

namespace xmoe {

struct RelayPlan {
  struct Leg {
    std::vector<std::int64_t> send_rows, recv_rows;        // by rank of the group
    std::vector<std::int64_t> send_entries, recv_entries;  // likewise
    Tensor rows;  // [sent] i32: the row of its input (x; relayed: of those that came by crossing)

    std::int64_t sent() const { return sum(send_rows); }
    std::int64_t received() const { return sum(recv_rows); }
    std::int64_t sent_entries() const { return sum(send_entries); }
    std::int64_t received_entries() const { return sum(recv_entries); }
  };

  Leg crossing, own, relayed;

  // Which rows of the results are summed. The results hold R rows of experts, then the sums that come back
  // on the own leg, on the relayed leg and by crossing. -1 fills a table up to its widest row.
  Tensor own_index;    // [T, w]: experts here, then own leg, then crossing
  Tensor relay_index;  // [crossed rows, w]: experts here, then relayed leg
  Tensor back_index;   // [rows received within the node, own leg first, w]: experts here

  // Where the gradient of a weight is, among R of experts here, then those that come back on the own leg, on
  // the relayed leg and by crossing (the last two kinds at the source: DispatchPlan::combine_index).
  Tensor relay_weight;  // [crossed entries] i32
  Tensor back_weight;   // [entries received within the node, own leg first] i32

  std::int64_t received() const { return crossing.received() + own.received() + relayed.received(); }

  template <typename Plan, typename F>
  static void for_each_tensor(Plan& plan, F&& f) {
    f(plan.crossing.rows);
    f(plan.own.rows);
    f(plan.relayed.rows);
    f(plan.own_index);
    f(plan.relay_index);
    f(plan.back_index);
    f(plan.relay_weight);
    f(plan.back_weight);
  }

 private:
  static std::int64_t sum(const std::vector<std::int64_t>& counts) {
    return std::accumulate(counts.begin(), counts.end(), std::int64_t{0});
  }
};

}  // namespace xmoe
