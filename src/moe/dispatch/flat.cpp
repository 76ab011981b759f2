// The padding-free dispatcher: one uneven all-to-all in each direction. Only rows that change rank are
// packed, sent and kept; rows whose experts are on this rank are read from x where it lies.
//
// Rows of this rank's tokens ("local" in combine) are in the order of the PFT, which is that of the ranks
// that hold their experts: those of lower ranks, those that stay here, those of higher ranks. What comes back
// is written in place, on both sides of what the experts here write in place. So the PFT's own arrays serve
// as the plan's.
#include <algorithm>
#include <array>
#include <limits>
#include <numeric>

#include "moe/dispatch/dispatcher.h"
#include "moe/dispatch/passage.h"
#include "ops/elementwise/elementwise.h"
#include "ops/gather/gather.h"
#include "ops/runs/runs.h"

namespace xmoe {

namespace {

// An exchange between the rows of this rank's tokens, [B, ...], and those received, [S, ...]: in two parts,
// as the former lie on both sides of those that stay. What one rank sends to higher ranks the others receive
// from lower ones, so these make up a part. Must outlive the parts.
class Sides {
 public:
  Sides(const DispatchPlan& plan, int self) : plan_(plan) {
    const auto below = static_cast<std::size_t>(self);
    for (std::size_t side = 0; side < 2; ++side) {
      own_[side].assign(plan.send_rows.size(), 0);
      remote_[side].assign(plan.recv_rows.size(), 0);
    }
    for (std::size_t r = 0; r < plan.send_rows.size(); ++r) {
      own_[r < below ? 0 : 1][r] = plan.send_rows[r];
      remote_[r < below ? 0 : 1][r] = plan.recv_rows[r];
    }
    received_below_ = std::accumulate(remote_[0].begin(), remote_[0].end(), std::int64_t{0});
  }

  void add_outward(const Tensor& own, const Tensor& remote, std::vector<ExchangePart>& parts) const {
    for (std::size_t side = 0; side < 2; ++side)
      parts.push_back({own_side(own, side), own_[side], remote_side(remote, 1 - side), remote_[1 - side]});
  }
  void add_homeward(const Tensor& own, const Tensor& remote, std::vector<ExchangePart>& parts) const {
    for (std::size_t side = 0; side < 2; ++side)
      parts.push_back({remote_side(remote, side), remote_[side], own_side(own, 1 - side), own_[1 - side]});
  }

 private:
  Tensor own_side(const Tensor& own, std::size_t side) const {
    return side == 0 ? own.slice(0, plan_.own_begin)
                     : own.slice(plan_.own_begin + plan_.own_rows, plan_.local_rows);
  }
  Tensor remote_side(const Tensor& remote, std::size_t side) const {
    return side == 0 ? remote.slice(0, received_below_) : remote.slice(received_below_, remote.dim(0));
  }

  const DispatchPlan& plan_;
  std::array<std::vector<std::int64_t>, 2> own_, remote_;
  std::int64_t received_below_ = 0;
};

struct FlatPassage final : Passage {
  explicit FlatPassage(const Communicator& ranks) : group(ranks) {}
  RowPair end() override {
    wait_timed(group, transfer.get());
    return rows;
  }

  const Communicator& group;
  RowPair rows;
  std::unique_ptr<Transfer> transfer;
};

class FlatDispatcher final : public Dispatcher {
 public:
  explicit FlatDispatcher(Communicator& ep) : ep_(ep) {}

  std::vector<DispatchPlan> plans(const Context& ctx, Arena& saved, std::span<const Pft> pfts) override {
    const profile::Scope timed(profile::Activity::pft);
    const std::vector<Counts> incoming = exchange_counts(pfts);
    std::vector<DispatchPlan> made;
    for (std::size_t i = 0; i < pfts.size(); ++i) made.push_back(make_plan(ctx, saved, pfts[i], incoming[i]));
    if (ep_.size() > 1) exchange_weights(ctx, pfts, made);
    return made;
  }

  bool keeps_pft() const override { return true; }
  bool keeps_weights() const override { return ep_.size() == 1; }

  std::unique_ptr<Passage> begin_dispatch(const Context& ctx, Arena& arena, const DispatchPlan& plan,
                                          const Tensor& x) override {
    auto passage = std::make_unique<FlatPassage>(ep_);
    passage->rows.local = x;
    if (ep_.size() == 1) return passage;
    passage->rows.remote = arena.tensor(x.dtype(), {plan.received(), x.dim(1)});
    const Tensor send = ctx.workspace.tensor(x.dtype(), {plan.sent(), x.dim(1)});
    {
      const profile::Scope scope(profile::Activity::gather);
      const std::int64_t begin = plan.own_begin;
      gather_rows(ctx, x, plan.row_tokens.slice(0, begin), send.slice(0, begin));
      gather_rows(ctx, x, plan.row_tokens.slice(begin + plan.own_rows, plan.local_rows),
                  send.slice(begin, plan.sent()));
    }
    const ExchangePart part{send, plan.send_rows, passage->rows.remote, plan.recv_rows};
    passage->transfer = start_timed(ep_, {&part, 1});
    return passage;
  }

  RowPair results(Arena& arena, const DispatchPlan& plan, const Tensor& out) override {
    if (nothing_to_sum(plan)) return {out, {}};
    RowPair pair{arena.tensor(out.dtype(), {plan.local_rows, out.dim(1)}), {}};
    if (ep_.size() > 1) pair.remote = arena.tensor(out.dtype(), {plan.received(), out.dim(1)});
    return pair;
  }

  std::unique_ptr<Passage> begin_combine(const Context& ctx, const DispatchPlan& plan, const RowPair& results,
                                         const Tensor& out) override {
    if (nothing_to_sum(plan)) return std::make_unique<FlatPassage>(ep_);
    auto passage = std::make_unique<CombinePassage>(ctx, ep_, results.local, plan.combine_index, out);
    if (ep_.size() == 1) return passage;
    const Sides sides(plan, ep_.rank());
    std::vector<ExchangePart> parts;
    sides.add_homeward(results.local, results.remote, parts);
    passage->transfer = start_timed(ep_, parts);
    return passage;
  }

  void return_weights(const Context& ctx, const DispatchPlan& plan, const Tensor& dweights,
                      const Tensor& d_top_weights) override {
    const profile::Scope timed(profile::Activity::combine);
    if (ep_.size() == 1) return gather_numbers(ctx, dweights, plan.combine_index, d_top_weights);
    const ArenaScope scope(ctx.workspace);
    const Tensor all = ctx.workspace.tensor(DType::f32, {plan.local_rows + plan.received()});
    scatter_numbers(ctx, dweights, plan.destination, all);
    const Tensor own = all.slice(0, plan.local_rows);
    const Sides sides(plan, ep_.rank());
    std::vector<ExchangePart> parts;
    sides.add_homeward(own, all.slice(plan.local_rows, all.dim(0)), parts);
    wait_timed(ep_, start_timed(ep_, parts).get());
    gather_numbers(ctx, own, plan.combine_index, d_top_weights);
  }

 private:
  // Every token has one expert, which is here and writes the token's result where it belongs.
  bool nothing_to_sum(const DispatchPlan& plan) const {
    return ep_.size() == 1 && plan.destination.defined();
  }

  // [ep * E / ep]: rows that rank j sends to local expert e, at j * (E / ep) + e.
  using Counts = std::vector<std::int64_t>;

  std::vector<Counts> exchange_counts(std::span<const Pft> pfts) {
    std::vector<Counts> incoming;
    for (const Pft& pft : pfts) incoming.push_back(pft.per_expert);
    if (ep_.size() == 1) return incoming;
    // Each rank's counts of all batches lie together. Host memory, whatever the device.
    const std::int64_t ranks = ep_.size();
    const auto batches = static_cast<std::int64_t>(pfts.size());
    const std::int64_t local_experts = static_cast<std::int64_t>(incoming.front().size()) / ranks;
    const Shape shape{ranks, batches, local_experts};
    Counts send(static_cast<std::size_t>(shape.numel()));
    Counts recv(send.size());
    const auto for_each_run = [&](Counts& counts, auto&& fn) {
      auto* run = counts.data();
      for (std::int64_t j = 0; j < ranks; ++j)
        for (Counts& of_batch : incoming) {
          fn(run, of_batch.data() + j * local_experts);
          run += local_experts;
        }
    };
    for_each_run(send, [&](std::int64_t* run, std::int64_t* own) { std::copy_n(own, local_experts, run); });
    exchange_counts_timed(ep_, Tensor(send.data(), DType::i64, shape),
                          Tensor(recv.data(), DType::i64, shape));
    for_each_run(recv, [&](std::int64_t* run, std::int64_t* own) { std::copy_n(run, local_experts, own); });
    return incoming;
  }

  // All but the weights of rows from other ranks.
  DispatchPlan make_plan(const Context& ctx, Arena& saved, const Pft& pft, const Counts& incoming) const {
    const auto ranks = static_cast<std::size_t>(ep_.size());
    const auto self = static_cast<std::size_t>(ep_.rank());
    const std::size_t local_experts = pft.per_expert.size() / ranks;

    DispatchPlan plan;
    plan.tokens = pft.tokens;
    plan.local_rows = pft.kept();
    plan.combine_index = pft.rows;
    plan.send_rows.assign(ranks, 0);
    plan.recv_rows.assign(ranks, 0);
    for (std::size_t e = 0; e < pft.per_expert.size(); ++e) {
      plan.send_rows[e / local_experts] += pft.per_expert[e];
      plan.recv_rows[e / local_experts] += incoming[e];
    }
    plan.own_begin = std::accumulate(
        plan.send_rows.begin(), plan.send_rows.begin() + static_cast<std::ptrdiff_t>(self), std::int64_t{0});
    plan.own_rows = plan.send_rows[self];
    plan.send_rows[self] = 0;
    plan.recv_rows[self] = 0;
    const std::int64_t indexed = std::max(plan.tokens, plan.local_rows) + plan.received();
    XMOE_CHECK(
        indexed <= std::numeric_limits<std::int32_t>::max(),
        "{} rows of one MoE layer on one rank are more than 32 bits number: the micro-batch is too large",
        indexed);
    plan.per_expert.assign(local_experts, 0);
    for (std::size_t e = 0; e < incoming.size(); ++e) plan.per_expert[e % local_experts] += incoming[e];
    const std::int64_t total = plan.expert_rows().total();
    if (ranks == 1) {  // the experts compute the rows in the order of the PFT
      plan.source = pft.token_ids;
      plan.weights = pft.weights;
      if (pft.top_k == 1 && pft.dropped() == 0) plan.destination = plan.source;
      return plan;
    }
    plan.weights = saved.tensor(DType::f32, {total});
    plan.row_tokens = pft.token_ids;
    plan.destination = saved.tensor(DType::i32, {total});
    plan.source = saved.tensor(DType::i32, {total});
    fill_runs(ctx, runs_of(plan, incoming), plan.destination);
    // The source of each destination: of own rows their token, of received ones the row itself.
    const ArenaScope scope(ctx.workspace);
    const Tensor source = ctx.workspace.tensor(DType::i32, {plan.local_rows + plan.received()});
    copy(ctx, pft.token_ids, source.slice(0, plan.local_rows));
    const Run received{plan.tokens, plan.received()};
    fill_runs(ctx, {&received, 1}, source.slice(plan.local_rows, source.dim(0)));
    gather_numbers(ctx, source, plan.destination, plan.source);
    return plan;
  }

  // Destinations in the order in which the experts compute: by expert, then by rank of origin, then by token.
  std::vector<Run> runs_of(const DispatchPlan& plan, const Counts& incoming) const {
    const auto self = static_cast<std::size_t>(ep_.rank());
    const std::size_t local_experts = plan.per_expert.size();
    std::vector<std::int64_t> begin(incoming.size());  // of the rows of (rank, expert)
    std::int64_t received = plan.local_rows;
    std::int64_t own = plan.own_begin;
    for (std::size_t i = 0; i < incoming.size(); ++i) {
      std::int64_t& next = i / local_experts == self ? own : received;
      begin[i] = next;
      next += incoming[i];
    }
    std::vector<Run> runs;
    for (std::size_t e = 0; e < local_experts; ++e)
      for (std::size_t i = e; i < incoming.size(); i += local_experts)
        runs.push_back({begin[i], incoming[i]});
    return runs;
  }

  // The weights of all batches take the way of the rows, in one round of messages.
  void exchange_weights(const Context& ctx, std::span<const Pft> pfts, std::vector<DispatchPlan>& plans) {
    const ArenaScope scope(ctx.workspace);
    std::vector<Tensor> all;  // by destination
    std::vector<Sides> sides;
    std::vector<ExchangePart> parts;
    sides.reserve(plans.size());
    for (std::size_t i = 0; i < plans.size(); ++i) {
      const DispatchPlan& plan = plans[i];
      all.push_back(ctx.workspace.tensor(DType::f32, {plan.local_rows + plan.received()}));
      const Tensor own = all.back().slice(0, plan.local_rows);
      copy(ctx, pfts[i].weights, own);
      sides.emplace_back(plan, ep_.rank())
          .add_outward(own, all.back().slice(plan.local_rows, all.back().dim(0)), parts);
    }
    wait_timed(ep_, start_timed(ep_, parts).get());
    for (std::size_t i = 0; i < plans.size(); ++i)
      gather_numbers(ctx, all[i], plans[i].destination, plans[i].weights);
  }

  Communicator& ep_;
};

}  // namespace

std::unique_ptr<Dispatcher> make_flat_dispatcher(Communicator& ep) {
  return std::make_unique<FlatDispatcher>(ep);
}

}  // namespace xmoe
