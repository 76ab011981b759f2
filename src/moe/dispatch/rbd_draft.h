// What RbdPlanner works with until its plans are made.
#pragma once

#include <cstdint>
#include <utility>
#include <vector>

#include "moe/dispatch/rbd_plan.h"

namespace xmoe {

inline std::size_t index_of(int rank) { return static_cast<std::size_t>(rank); }

// The kept assignments of this rank by token, then node (its own first), then expert: so that those that
// share a row lie together. A group is what a token has on one node.
struct RbdPlanner::Assignments {
  std::int64_t top_k = 0;
  std::int64_t local_experts = 0;
  std::int64_t groups = 0;
  std::int32_t* assignment;   // [B] token * k + slot
  std::int32_t* expert;       // [B]
  std::int32_t* group_begin;  // [groups + 1]
  std::int32_t* pilot;        // [groups]; this rank itself for groups of its own node

  std::int64_t token(std::int64_t group) const { return assignment[group_begin[group]] / top_k; }
  int rank(std::int64_t i) const { return static_cast<int>(expert[i] / local_experts); }
  // Calls f(rank, begin, end) for the part of a group that each rank serves.
  template <typename F>
  void by_rank(std::int64_t group, F&& f) const {
    for (std::int64_t i = group_begin[group]; i < group_begin[group + 1];) {
      std::int64_t end = i + 1;
      while (end < group_begin[group + 1] && rank(end) == rank(i)) ++end;
      f(rank(i), i, end);
      i = end;
    }
  }
};

// The most terms of a row in each table of sums.
struct RbdPlanner::Widths {
  std::int64_t own = 1;
  std::vector<std::int64_t> relay, back;  // [P]: of rows that this rank sends; then [0]: of those it gets
};

// What this rank's tokens make each rank send within its node.
struct RbdPlanner::Flow {
  explicit Flow(const NodeMap& nodes)
      : places(static_cast<std::size_t>(nodes.largest())),
        rows(static_cast<std::size_t>(nodes.ranks()) * places, 0),
        entries(rows) {}
  std::size_t at(int from, int place) const {
    return static_cast<std::size_t>(from) * places + static_cast<std::size_t>(place);
  }

  std::size_t places;                       // m
  std::vector<std::int64_t> rows, entries;  // [P, m] by sender and place of the receiver
};

// A plan until the counts of the other ranks are known.
struct RbdPlanner::Draft {
  DispatchPlan plan;
  Assignments sorted;
  Flow flow;
  Widths widths;
  struct Entries {
    Tensor local;              // [n] i64, an Entry each: own tokens' assignments to experts of this rank,
    Tensor local_assignments;  // [n] i32              by token, then expert; token * k + slot
    // [entries of the leg] i64
    Tensor crossing_sent, crossing_received, own_sent, own_received, relayed_sent, relayed_received;
  } entries;
};

}  // namespace xmoe
