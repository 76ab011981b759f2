// The source's side of a plan: its own routing and the exchange of counts.
#include "moe/dispatch/rbd_plan.h"

#include <algorithm>
#include <limits>
#include <numeric>
#include <utility>

#include "moe/dispatch/passage.h"
#include "moe/dispatch/pilots.h"
#include "moe/dispatch/rbd_draft.h"

namespace xmoe {

namespace {

void resize(RelayPlan::Leg& leg, int ranks) {
  for (auto* counts : {&leg.send_rows, &leg.recv_rows, &leg.send_entries, &leg.recv_entries})
    counts->assign(index_of(ranks), 0);
}

Tensor filled_index(Arena& arena, const Shape& shape) {
  const Tensor index = arena.tensor(DType::i32, shape);
  std::fill_n(index.data<std::int32_t>(), index.numel(), -1);
  return index;
}

}  // namespace

RbdPlanner::RbdPlanner(Communicator& ep, Communicator& ep_node)
    : ep_(ep), ep_node_(ep_node), nodes_(ep.nodes(), ep.size()), self_(ep.rank()), node_(nodes_.node(self_)) {
  XMOE_CHECK(
      ep_node.size() == static_cast<int>(nodes_.on(node_).size()) && ep_node.rank() == nodes_.place(self_),
      "rank {} of {} on its node by the topology, {} of {} by its group {}", nodes_.place(self_),
      nodes_.on(node_).size(), ep_node.rank(), ep_node.size(), ep_node.name());
}

RbdPlanner::Assignments RbdPlanner::sort_by_node(const Context& ctx, const Pft& pft) const {
  const std::int64_t kept = pft.kept();
  const auto array = [&](std::int64_t n) {
    return ctx.workspace.tensor(DType::i32, {n}).data<std::int32_t>();
  };
  Assignments sorted;
  sorted.top_k = pft.top_k;
  sorted.local_experts = static_cast<std::int64_t>(pft.per_expert.size()) / nodes_.ranks();
  sorted.assignment = array(kept);
  sorted.expert = array(kept);
  sorted.group_begin = array(kept + 1);
  sorted.pilot = array(kept);
  auto* expert_of_row = array(kept);
  std::int64_t row = 0;
  for (std::size_t e = 0; e < pft.per_expert.size(); ++e)
    for (std::int64_t i = 0; i < pft.per_expert[e]; ++i) expert_of_row[row++] = static_cast<std::int32_t>(e);

  struct Choice {
    int node;  // counted from this rank's own
    std::int32_t expert, assignment;
  };
  std::vector<Choice> choices(static_cast<std::size_t>(pft.top_k));
  const auto* rows = pft.rows.data<std::int32_t>();
  std::int64_t n = 0;
  for (std::int64_t t = 0; t < pft.tokens; ++t) {
    std::size_t count = 0;
    for (std::int64_t a = t * pft.top_k; a < (t + 1) * pft.top_k; ++a) {
      if (rows[a] < 0) continue;
      const std::int32_t expert = expert_of_row[rows[a]];
      const int node = nodes_.node(rank_of(expert, sorted.local_experts));
      choices[count++] = {(node - node_ + nodes_.nodes()) % nodes_.nodes(), expert,
                          static_cast<std::int32_t>(a)};
    }
    std::sort(choices.begin(), choices.begin() + static_cast<std::ptrdiff_t>(count),
              [](const Choice& a, const Choice& b) {
                return a.node != b.node ? a.node < b.node : a.expert < b.expert;
              });
    for (std::size_t i = 0; i < count; ++i, ++n) {
      if (i == 0 || choices[i].node != choices[i - 1].node)
        sorted.group_begin[sorted.groups++] = static_cast<std::int32_t>(n);
      sorted.expert[n] = choices[i].expert;
      sorted.assignment[n] = choices[i].assignment;
    }
  }
  sorted.group_begin[sorted.groups] = static_cast<std::int32_t>(n);

  // Candidates of the groups of other nodes. Groups of the own node have one: this rank itself.
  auto* begin = array(sorted.groups + 1);
  auto* candidates = array(kept);
  std::int32_t listed = 0;
  for (std::int64_t g = 0; g < sorted.groups; ++g) {
    begin[g] = listed;
    if (nodes_.node(sorted.rank(sorted.group_begin[g])) == node_) {
      candidates[listed++] = self_;
    } else {
      sorted.by_rank(g, [&](int rank, std::int64_t, std::int64_t) { candidates[listed++] = rank; });
    }
  }
  begin[sorted.groups] = listed;
  const auto groups = static_cast<std::size_t>(sorted.groups);
  choose_pilots(nodes_, self_, {begin, groups + 1}, {candidates, static_cast<std::size_t>(listed)},
                {sorted.pilot, groups});
  return sorted;
}

RbdPlanner::Widths RbdPlanner::count(const Assignments& sorted, RelayPlan& relay, Flow& flow) const {
  Widths widths;
  widths.relay.assign(index_of(nodes_.ranks()), 1);
  widths.back = widths.relay;
  std::int64_t terms = 0;  // of the sum of a token, here
  for (std::int64_t g = 0; g < sorted.groups; ++g) {
    const int pilot = sorted.pilot[g];
    if (g == 0 || sorted.token(g) != sorted.token(g - 1)) terms = 0;
    std::int64_t at_pilot = 0;  // terms of the sum of this group
    sorted.by_rank(g, [&](int rank, std::int64_t begin, std::int64_t end) {
      at_pilot += rank == pilot ? end - begin : 1;
      if (rank == pilot) return;
      ++flow.rows[flow.at(pilot, nodes_.place(rank))];
      flow.entries[flow.at(pilot, nodes_.place(rank))] += end - begin;
      auto& back = widths.back[index_of(rank)];
      back = std::max(back, end - begin);
    });
    if (pilot == self_) {
      terms += at_pilot;
    } else {
      ++terms;
      ++relay.crossing.send_rows[index_of(pilot)];
      relay.crossing.send_entries[index_of(pilot)] += sorted.group_begin[g + 1] - sorted.group_begin[g];
      auto& width = widths.relay[index_of(pilot)];
      width = std::max(width, at_pilot);
    }
    widths.own = std::max(widths.own, terms);
  }
  return widths;
}

// To rank q, for each batch: rows and entries that cross to it, the widths of its tables, and for each rank
// of its node what q will get from it and what q will pass on to it.
void RbdPlanner::exchange_counts(const Context& ctx, std::vector<Draft>& drafts) const {
  const int ranks = nodes_.ranks();
  const std::int64_t length = 4 + 4 * static_cast<std::int64_t>(nodes_.largest());
  const auto batches = static_cast<std::int64_t>(drafts.size());
  const Tensor send = ctx.workspace.zeros(DType::i64, {ranks, batches, length});
  const Tensor recv = ctx.workspace.tensor(DType::i64, send.shape());
  for (int q = 0; q < ranks; ++q) {
    for (std::int64_t b = 0; b < batches; ++b) {
      const auto& [plan, sorted, flow, widths, entries] = drafts[static_cast<std::size_t>(b)];
      auto* to = send[q][b].data<std::int64_t>();
      *to++ = plan.relay.crossing.send_rows[index_of(q)];
      *to++ = plan.relay.crossing.send_entries[index_of(q)];
      *to++ = widths.relay[index_of(q)];
      *to++ = widths.back[index_of(q)];
      for (const int peer : nodes_.on(nodes_.node(q))) {
        *to++ = flow.rows[flow.at(peer, nodes_.place(q))];
        *to++ = flow.entries[flow.at(peer, nodes_.place(q))];
        *to++ = flow.rows[flow.at(q, nodes_.place(peer))];
        *to++ = flow.entries[flow.at(q, nodes_.place(peer))];
      }
    }
  }
  exchange_counts_timed(ep_, send, recv);
  for (std::int64_t b = 0; b < batches; ++b) {
    Draft& draft = drafts[static_cast<std::size_t>(b)];
    RelayPlan& relay = draft.plan.relay;
    std::int64_t relay_width = 1;
    std::int64_t back_width = 1;
    for (int s = 0; s < ranks; ++s) {
      const auto* from = recv[s][b].data<std::int64_t>();
      relay.crossing.recv_rows[index_of(s)] = *from++;
      relay.crossing.recv_entries[index_of(s)] = *from++;
      relay_width = std::max(relay_width, *from++);
      back_width = std::max(back_width, *from++);
      for (const int peer : nodes_.on(node_)) {
        const auto place = index_of(nodes_.place(peer));
        RelayPlan::Leg& in = s == peer ? relay.own : relay.relayed;
        in.recv_rows[place] += *from++;
        in.recv_entries[place] += *from++;
        RelayPlan::Leg& out = s == self_ ? relay.own : relay.relayed;
        out.send_rows[place] += *from++;
        out.send_entries[place] += *from++;
      }
    }
    draft.widths.relay = {relay_width};
    draft.widths.back = {back_width};
  }
}

std::vector<DispatchPlan> RbdPlanner::plans(const Context& ctx, Arena& saved,
                                            std::span<const Pft> pfts) const {
  const ArenaScope scope(ctx.workspace);
  const int here = static_cast<int>(nodes_.on(node_).size());
  std::vector<Draft> drafts;
  for (const Pft& pft : pfts) {
    Draft draft{{}, sort_by_node(ctx, pft), Flow(nodes_), {}, {}};
    RelayPlan& relay = draft.plan.relay;
    resize(relay.crossing, nodes_.ranks());
    resize(relay.own, here);
    resize(relay.relayed, here);
    draft.widths = count(draft.sorted, relay, draft.flow);
    drafts.push_back(std::move(draft));
  }
  exchange_counts(ctx, drafts);
  for (std::size_t i = 0; i < pfts.size(); ++i) {
    size_arrays(saved, pfts[i], drafts[i]);
    fill_own(ctx, pfts[i], drafts[i]);
  }
  exchange_crossing(ctx, drafts);
  for (Draft& draft : drafts) fill_relayed(ctx, draft);
  exchange_within(ctx, drafts);
  std::vector<DispatchPlan> made;
  for (Draft& draft : drafts) {
    complete(draft);
    made.push_back(std::move(draft.plan));
  }
  return made;
}

void RbdPlanner::size_arrays(Arena& saved, const Pft& pft, Draft& draft) const {
  auto& [plan, sorted, flow, widths, entries] = draft;
  RelayPlan& relay = plan.relay;
  plan.tokens = pft.tokens;
  const std::int64_t own_experts =
      pft.kept() - relay.crossing.sent_entries() - relay.own.sent_entries();  // assignments, of own tokens
  const std::int64_t received_entries = relay.own.received_entries() + relay.relayed.received_entries();
  const std::int64_t computed =
      own_experts + relay.crossing.received_entries() - relay.relayed.sent_entries() + received_entries;
  const std::int64_t sent = relay.own.sent() + relay.relayed.sent() + relay.crossing.sent();
  const std::int64_t sent_entries =
      relay.own.sent_entries() + relay.relayed.sent_entries() + relay.crossing.sent_entries();
  plan.local_rows = computed + sent;
  const std::int64_t indexed = std::max(computed + sent_entries, plan.tokens + relay.received());
  XMOE_CHECK(
      indexed <= std::numeric_limits<std::int32_t>::max(),
      "{} rows of one MoE layer on one rank are more than 32 bits number: the micro-batch is too large",
      indexed);

  plan.per_expert.assign(static_cast<std::size_t>(sorted.local_experts), 0);
  plan.source = saved.tensor(DType::i32, {computed});
  plan.weights = saved.tensor(DType::f32, {computed});
  plan.combine_index = filled_index(saved, pft.rows.shape());
  for (RelayPlan::Leg* leg : {&relay.crossing, &relay.own, &relay.relayed})
    leg->rows = saved.tensor(DType::i32, {leg->sent()});
  relay.own_index = filled_index(saved, {pft.tokens, widths.own});
  relay.relay_index = filled_index(saved, {relay.crossing.received(), widths.relay[0]});
  relay.back_index = filled_index(saved, {relay.own.received() + relay.relayed.received(), widths.back[0]});
  relay.relay_weight = saved.tensor(DType::i32, {relay.crossing.received_entries()});
  relay.back_weight = saved.tensor(DType::i32, {received_entries});
}

void RbdPlanner::fill_own(const Context& ctx, const Pft& pft, Draft& draft) const {
  const Assignments& sorted = draft.sorted;
  DispatchPlan& plan = draft.plan;
  RelayPlan& relay = plan.relay;
  const std::int64_t computed = plan.source.dim(0);
  const std::int64_t width = relay.own_index.dim(1);
  const auto* rows = pft.rows.data<std::int32_t>();
  const auto* weights = pft.weights.data<float>();
  auto* combine = plan.combine_index.data<std::int32_t>();
  auto* index = relay.own_index.data<std::int32_t>();
  const std::int64_t local_count = pft.kept() - relay.crossing.sent_entries() - relay.own.sent_entries();
  draft.entries.local = ctx.workspace.tensor(DType::i64, {local_count});
  draft.entries.local_assignments = ctx.workspace.tensor(DType::i32, {local_count});
  draft.entries.crossing_sent = ctx.workspace.tensor(DType::i64, {relay.crossing.sent_entries()});
  draft.entries.own_sent = ctx.workspace.tensor(DType::i64, {relay.own.sent_entries()});
  auto* local = static_cast<Entry*>(draft.entries.local.raw());
  auto* local_assignments = draft.entries.local_assignments.data<std::int32_t>();

  // A leg of this rank's own rows as it is filled: the next row and entry for each rank.
  struct Cursor {
    Cursor(const RelayPlan::Leg& leg, const Tensor& sent, std::int64_t row_base, std::int64_t entry_base)
        : next_row(offsets(leg.send_rows)),
          next_entry(offsets(leg.send_entries)),
          rows(leg.rows.data<std::int32_t>()),
          entries(static_cast<Entry*>(sent.raw())),
          first_row(row_base),
          first_entry(entry_base) {}
    std::vector<std::int64_t> next_row, next_entry;
    std::int32_t* rows;
    Entry* entries;
    std::int64_t first_row, first_entry;  // of what comes back, among all results
  };
  Cursor own(relay.own, draft.entries.own_sent, computed, computed);
  Cursor crossing(relay.crossing, draft.entries.crossing_sent,
                  computed + relay.own.sent() + relay.relayed.sent(),
                  computed + relay.own.sent_entries() + relay.relayed.sent_entries());

  const auto entry = [&](std::int64_t i, bool begins_row) {
    return Entry{static_cast<std::uint32_t>(sorted.expert[i]) | (begins_row ? Entry::kBeginsRow : 0),
                 weights[rows[sorted.assignment[i]]]};
  };
  std::int64_t slot = 0;  // in the sum of the token
  // One row to the rank at `to`, for the assignments [begin, end).
  const auto send = [&](Cursor& cursor, std::size_t to, std::int64_t token, std::int64_t begin,
                        std::int64_t end) {
    const std::int64_t row = cursor.next_row[to]++;
    cursor.rows[row] = static_cast<std::int32_t>(token);
    index[token * width + slot++] = static_cast<std::int32_t>(cursor.first_row + row);
    for (std::int64_t i = begin; i < end; ++i) {
      const std::int64_t at = cursor.next_entry[to]++;
      cursor.entries[at] = entry(i, i == begin);
      combine[sorted.assignment[i]] = static_cast<std::int32_t>(cursor.first_entry + at);
    }
  };
  for (std::int64_t g = 0; g < sorted.groups; ++g) {
    const std::int64_t token = sorted.token(g);
    if (g == 0 || token != sorted.token(g - 1)) slot = 0;
    if (sorted.pilot[g] != self_) {
      send(crossing, index_of(sorted.pilot[g]), token, sorted.group_begin[g], sorted.group_begin[g + 1]);
      continue;
    }
    // Experts here have the first slots; complete() fills them in.
    sorted.by_rank(g, [&](int rank, std::int64_t begin, std::int64_t end) {
      if (rank != self_) return;
      slot = end - begin;
      for (std::int64_t i = begin; i < end; ++i) {
        *local++ = entry(i, i == begin);
        *local_assignments++ = sorted.assignment[i];
      }
    });
    sorted.by_rank(g, [&](int rank, std::int64_t begin, std::int64_t end) {
      if (rank != self_) send(own, index_of(nodes_.place(rank)), token, begin, end);
    });
  }
}

}  // namespace xmoe
