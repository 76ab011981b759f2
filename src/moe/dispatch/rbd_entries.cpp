// The receiver's side of a plan: the exchanges of entries, and what those that came tell.
#include <array>
#include <numeric>

#include "moe/dispatch/passage.h"
#include "moe/dispatch/rbd_draft.h"

namespace xmoe {

namespace {

std::span<const Entry> entries_of(const Tensor& tensor) {
  return {static_cast<const Entry*>(tensor.raw()), static_cast<std::size_t>(tensor.numel())};
}

}  // namespace

// Entries of all batches cross in one round of messages.
void RbdPlanner::exchange_crossing(const Context& ctx, std::vector<Draft>& drafts) const {
  std::vector<ExchangePart> parts;
  for (auto& [plan, sorted, flow, widths, entries] : drafts) {
    const RelayPlan::Leg& leg = plan.relay.crossing;
    entries.crossing_received = ctx.workspace.tensor(DType::i64, {leg.received_entries()});
    parts.push_back({entries.crossing_sent, leg.send_entries, entries.crossing_received, leg.recv_entries});
  }
  if (crosses()) wait_timed(ep_, start_timed(ep_, parts).get());
}

// And so they go on within the node.
void RbdPlanner::exchange_within(const Context& ctx, std::vector<Draft>& drafts) const {
  std::vector<ExchangePart> parts;
  for (auto& [plan, sorted, flow, widths, entries] : drafts) {
    const RelayPlan::Leg& own = plan.relay.own;
    const RelayPlan::Leg& relayed = plan.relay.relayed;
    entries.own_received = ctx.workspace.tensor(DType::i64, {own.received_entries()});
    entries.relayed_received = ctx.workspace.tensor(DType::i64, {relayed.received_entries()});
    parts.push_back({entries.own_sent, own.send_entries, entries.own_received, own.recv_entries});
    parts.push_back(
        {entries.relayed_sent, relayed.send_entries, entries.relayed_received, relayed.recv_entries});
  }
  if (relays()) wait_timed(ep_node_, start_timed(ep_node_, parts).get());
}

void RbdPlanner::fill_relayed(const Context& ctx, Draft& draft) const {
  DispatchPlan& plan = draft.plan;
  RelayPlan& relay = plan.relay;
  const auto entries = entries_of(draft.entries.crossing_received);
  draft.entries.relayed_sent = ctx.workspace.tensor(DType::i64, {relay.relayed.sent_entries()});
  const auto local_experts = static_cast<std::int64_t>(plan.per_expert.size());
  const std::int64_t width = relay.relay_index.dim(1);
  // Of what comes back on the relayed leg, among all results.
  const std::int64_t first_row = plan.source.dim(0) + relay.own.sent();
  const std::int64_t first_entry = plan.source.dim(0) + relay.own.sent_entries();
  auto* index = relay.relay_index.data<std::int32_t>();
  auto* weight_index = relay.relay_weight.data<std::int32_t>();
  auto* rows = relay.relayed.rows.data<std::int32_t>();
  auto* to = static_cast<Entry*>(draft.entries.relayed_sent.raw());
  auto next_row = offsets(relay.relayed.send_rows);
  auto next_entry = offsets(relay.relayed.send_entries);

  std::int64_t row = -1;
  std::int64_t slot = 0;  // in the sum of the row; experts here have the first ones
  int last = self_;       // rank that the entry before belongs to
  for (std::size_t i = 0; i < entries.size(); ++i) {
    const int rank = rank_of(entries[i].expert(), local_experts);
    if (entries[i].begins_row()) {
      ++row;
      slot = 0;
      for (std::size_t j = i; j < entries.size() && (j == i || !entries[j].begins_row()); ++j)
        slot += rank_of(entries[j].expert(), local_experts) == self_ ? 1 : 0;
    }
    const bool new_rank = entries[i].begins_row() || rank != last;
    last = rank;
    if (rank == self_) continue;
    XMOE_CHECK(nodes_.node(rank) == node_, "a row crossed to this node for expert {} of rank {}",
               entries[i].expert(), rank);
    const auto place = static_cast<std::size_t>(nodes_.place(rank));
    if (new_rank) {
      const std::int64_t at = next_row[place]++;
      rows[at] = static_cast<std::int32_t>(row);
      index[row * width + slot++] = static_cast<std::int32_t>(first_row + at);
    }
    const std::int64_t at = next_entry[place]++;
    to[at] = entries[i];
    to[at].code = static_cast<std::uint32_t>(entries[i].expert()) | (new_rank ? Entry::kBeginsRow : 0);
    weight_index[i] = static_cast<std::int32_t>(first_entry + at);
  }
  XMOE_CHECK(row + 1 == relay.crossing.received(), "{} rows crossed, their entries tell of {}",
             relay.crossing.received(), row + 1);
}

void RbdPlanner::complete(Draft& draft) const {
  DispatchPlan& plan = draft.plan;
  RelayPlan& relay = plan.relay;
  const Tensor& crossed = draft.entries.crossing_received;
  const Tensor& own = draft.entries.own_received;
  const Tensor& relayed = draft.entries.relayed_received;
  const auto local_experts = static_cast<std::int64_t>(plan.per_expert.size());
  const std::int64_t first_expert = self_ * local_experts;
  const auto is_here = [&](const Entry& e) { return rank_of(e.expert(), local_experts) == self_; };
  const std::array<const Tensor*, 4> lists = {&draft.entries.local, &crossed, &own, &relayed};
  for (const Tensor* list : lists)
    for (const Entry& e : entries_of(*list))
      if (is_here(e)) ++plan.per_expert[static_cast<std::size_t>(e.expert() - first_expert)];
  auto next = offsets(plan.per_expert);
  const std::int64_t computed = plan.expert_rows().total();
  XMOE_CHECK(computed == plan.source.dim(0), "{} rows to compute by the counts, {} by the entries",
             plan.source.dim(0), computed);

  auto* source = plan.source.data<std::int32_t>();
  auto* weights = plan.weights.data<float>();
  const auto place = [&](const Entry& e, std::int64_t from) {
    const std::int64_t r = next[static_cast<std::size_t>(e.expert() - first_expert)]++;
    source[r] = static_cast<std::int32_t>(from);
    weights[r] = e.weight;
    return static_cast<std::int32_t>(r);
  };
  std::int64_t slot = 0;

  const auto local = entries_of(draft.entries.local);
  const auto* assignments = draft.entries.local_assignments.data<std::int32_t>();
  const std::int64_t top_k = plan.combine_index.dim(1);
  for (std::size_t i = 0; i < local.size(); ++i) {
    if (local[i].begins_row()) slot = 0;
    const std::int64_t token = assignments[i] / top_k;
    const std::int32_t r = place(local[i], token);
    relay.own_index.data<std::int32_t>()[token * relay.own_index.dim(1) + slot++] = r;
    plan.combine_index.data<std::int32_t>()[assignments[i]] = r;
  }

  // The rows of received legs lie one behind another; `row` runs on.
  std::int64_t row = -1;
  const auto place_received = [&](const Tensor& list, const Tensor& index, std::int64_t first_row,
                                  std::int32_t* weight_index) {
    const auto entries = entries_of(list);
    for (std::size_t i = 0; i < entries.size(); ++i) {
      if (entries[i].begins_row()) {
        ++row;
        slot = 0;
      }
      if (!is_here(entries[i])) continue;
      const std::int32_t r = place(entries[i], plan.tokens + row);
      index.data<std::int32_t>()[(row - first_row) * index.dim(1) + slot++] = r;
      weight_index[i] = r;
    }
  };
  auto* back_weight = relay.back_weight.data<std::int32_t>();
  place_received(crossed, relay.relay_index, 0, relay.relay_weight.data<std::int32_t>());
  place_received(own, relay.back_index, relay.crossing.received(), back_weight);
  place_received(relayed, relay.back_index, relay.crossing.received(),
                 back_weight + relay.own.received_entries());
}

}  // namespace xmoe
