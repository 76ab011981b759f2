// The padding-free dispatcher: one uneven all-to-all in each direction. Only rows that change rank are
// packed, sent and kept; rows whose experts are on this rank are read from x where it lies.
//
// Rows of this rank's tokens ("local" in combine) are ordered: first those that come back from other ranks,
// by rank, so that the all-to-all writes them in place; then those computed here, which the experts write in
// place.
#include <algorithm>
#include <limits>
#include <numeric>

#include "moe/dispatch/dispatcher.h"
#include "moe/dispatch/passage.h"
#include "ops/gather/gather.h"

namespace xmoe {

namespace {

// Fills in, the first time, the weights that came with the rows.
struct FlatPassage final : Passage {
  FlatPassage(const Communicator& ranks, DispatchPlan& routing) : group(ranks), plan(routing) {}
  RowPair end() override {
    wait_timed(group, transfer.get());
    if (plan.complete) return rows;
    const profile::Scope scope(profile::Activity::pft);
    const auto* source = plan.source.data<std::int32_t>();
    auto* weights = plan.weights.data<float>();
    for (std::int64_t r = 0; r < plan.weights.dim(0); ++r)
      if (source[r] >= plan.tokens) weights[r] = received_weights.data<float>()[source[r] - plan.tokens];
    plan.complete = true;
    return rows;
  }

  const Communicator& group;
  DispatchPlan& plan;
  RowPair rows;
  Tensor received_weights;  // [S] f32
  std::unique_ptr<Transfer> transfer;
};

class FlatDispatcher final : public Dispatcher {
 public:
  explicit FlatDispatcher(Communicator& ep) : ep_(ep) {}

  std::vector<DispatchPlan> plans(const Context& ctx, Arena& saved, std::span<const Pft> pfts) override {
    const profile::Scope timed(profile::Activity::pft);
    const std::vector<Counts> incoming = exchange_counts(ctx, pfts);
    std::vector<DispatchPlan> made;
    for (std::size_t i = 0; i < pfts.size(); ++i) made.push_back(make_plan(saved, pfts[i], incoming[i]));
    return made;
  }

  std::unique_ptr<Passage> begin_dispatch(const Context& ctx, Arena& arena, DispatchPlan& plan,
                                          const Tensor& x) override {
    auto passage = std::make_unique<FlatPassage>(ep_, plan);
    passage->rows.local = x;
    if (ep_.size() == 1) return passage;
    passage->rows.remote = arena.tensor(x.dtype(), {plan.received(), x.dim(1)});
    const Tensor send = ctx.workspace.tensor(x.dtype(), {plan.send_tokens.dim(0), x.dim(1)});
    {
      const profile::Scope scope(profile::Activity::gather);
      gather_rows(ctx, x, plan.send_tokens, send);
    }
    std::vector<ExchangePart> parts = {{send, plan.send_rows, passage->rows.remote, plan.recv_rows}};
    if (!plan.complete) {
      passage->received_weights = ctx.workspace.tensor(DType::f32, {plan.received()});
      parts.push_back({plan.send_weights, plan.send_rows, passage->received_weights, plan.recv_rows});
    }
    passage->transfer = start_timed(ep_, parts);
    return passage;
  }

  RowPair results(Arena& arena, const DispatchPlan& plan, const Tensor& like) override {
    RowPair pair{arena.tensor(like.dtype(), {plan.local_rows, like.dim(1)}), {}};
    if (ep_.size() > 1) pair.remote = arena.tensor(like.dtype(), {plan.received(), like.dim(1)});
    return pair;
  }

  std::unique_ptr<Passage> begin_combine(const Context& ctx, const DispatchPlan& plan, const RowPair& results,
                                         const Tensor& out) override {
    auto passage = std::make_unique<CombinePassage>(ctx, ep_, results.local, plan.combine_index, out);
    if (ep_.size() == 1) return passage;
    const ExchangePart part{results.remote, plan.recv_rows, results.local.slice(0, plan.send_tokens.dim(0)),
                            plan.send_rows};
    passage->transfer = start_timed(ep_, {&part, 1});
    return passage;
  }

  void return_weights(const Context& ctx, const DispatchPlan& plan, const Tensor& dweights,
                      const Tensor& d_top_weights) override {
    const profile::Scope timed(profile::Activity::combine);
    const ArenaScope scope(ctx.workspace);
    const Tensor all = ctx.workspace.tensor(DType::f32, {plan.local_rows + plan.received()});
    const auto* destination = plan.destination.data<std::int32_t>();
    const auto* from = dweights.data<float>();
    auto* to = all.data<float>();
    for (std::int64_t r = 0; r < dweights.dim(0); ++r) to[destination[r]] = from[r];
    if (ep_.size() > 1) {
      const ExchangePart part{all.slice(plan.local_rows, all.dim(0)), plan.recv_rows,
                              all.slice(0, plan.send_tokens.dim(0)), plan.send_rows};
      wait_timed(ep_, start_timed(ep_, {&part, 1}).get());
    }
    const auto* index = plan.combine_index.data<std::int32_t>();
    auto* out = d_top_weights.data<float>();
    for (std::int64_t a = 0; a < d_top_weights.numel(); ++a) out[a] = index[a] < 0 ? 0.0F : to[index[a]];
  }

 private:
  // [ep * E / ep]: rows that rank j sends to local expert e, at j * (E / ep) + e.
  using Counts = std::vector<std::int64_t>;

  std::vector<Counts> exchange_counts(const Context& ctx, std::span<const Pft> pfts) {
    std::vector<Counts> incoming;
    for (const Pft& pft : pfts) incoming.push_back(pft.per_expert);
    if (ep_.size() == 1) return incoming;
    const ArenaScope scope(ctx.workspace);
    // Each rank's counts of all batches lie together.
    const std::int64_t ranks = ep_.size();
    const auto batches = static_cast<std::int64_t>(pfts.size());
    const std::int64_t local_experts = static_cast<std::int64_t>(incoming.front().size()) / ranks;
    const Tensor send = ctx.workspace.tensor(DType::i64, {ranks, batches, local_experts});
    const Tensor recv = ctx.workspace.tensor(DType::i64, send.shape());
    const auto for_each_run = [&](const Tensor& counts, auto&& fn) {
      for (std::int64_t j = 0; j < ranks; ++j)
        for (std::int64_t b = 0; b < batches; ++b)
          fn(counts[j][b].data<std::int64_t>(),
             incoming[static_cast<std::size_t>(b)].data() + j * local_experts);
    };
    for_each_run(send, [&](std::int64_t* run, std::int64_t* own) { std::copy_n(own, local_experts, run); });
    exchange_counts_timed(ep_, send, recv);
    for_each_run(recv, [&](std::int64_t* run, std::int64_t* own) { std::copy_n(run, local_experts, own); });
    return incoming;
  }

  DispatchPlan make_plan(Arena& saved, const Pft& pft, const Counts& incoming) const {
    const auto ranks = static_cast<std::size_t>(ep_.size());
    const auto self = static_cast<std::size_t>(ep_.rank());
    const std::size_t local_experts = pft.per_expert.size() / ranks;

    DispatchPlan plan;
    plan.tokens = pft.tokens;
    plan.local_rows = pft.kept();
    plan.send_rows.assign(ranks, 0);
    plan.recv_rows.assign(ranks, 0);
    for (std::size_t e = 0; e < pft.per_expert.size(); ++e) {
      plan.send_rows[e / local_experts] += pft.per_expert[e];
      plan.recv_rows[e / local_experts] += incoming[e];
    }
    // The segment of the PFT that stays here; all else is sent in the order of the PFT.
    const std::int64_t own_begin = std::accumulate(
        plan.send_rows.begin(), plan.send_rows.begin() + static_cast<std::ptrdiff_t>(self), std::int64_t{0});
    const std::int64_t own_rows = plan.send_rows[self];
    const std::int64_t own_end = own_begin + own_rows;
    const std::int64_t sent = pft.kept() - own_rows;
    plan.send_rows[self] = 0;
    plan.recv_rows[self] = 0;
    const std::int64_t indexed = std::max(plan.tokens, plan.local_rows) + plan.received();
    XMOE_CHECK(
        indexed <= std::numeric_limits<std::int32_t>::max(),
        "{} rows of one MoE layer on one rank are more than 32 bits number: the micro-batch is too large",
        indexed);

    const auto* token_ids = pft.token_ids.data<std::int32_t>();
    plan.send_tokens = saved.tensor(DType::i32, {sent});
    auto* send_tokens = plan.send_tokens.data<std::int32_t>();
    std::copy(token_ids, token_ids + own_begin, send_tokens);
    std::copy(token_ids + own_end, token_ids + pft.kept(), send_tokens + own_begin);
    const auto* weights = pft.weights.data<float>();
    plan.send_weights = saved.tensor(DType::f32, {sent});
    auto* send_weights = plan.send_weights.data<float>();
    std::copy(weights, weights + own_begin, send_weights);
    std::copy(weights + own_end, weights + pft.kept(), send_weights + own_begin);

    plan.combine_index = saved.tensor(DType::i32, pft.rows.shape());
    const auto* pft_rows = pft.rows.data<std::int32_t>();
    auto* combine = plan.combine_index.data<std::int32_t>();
    for (std::int64_t a = 0; a < pft.tokens * pft.top_k; ++a) {
      const std::int64_t row = pft_rows[a];
      const std::int64_t place = row < own_begin ? row
                                 : row < own_end ? sent + row - own_begin
                                                 : row - own_rows;
      combine[a] = static_cast<std::int32_t>(place);
    }

    plan.per_expert.assign(local_experts, 0);
    for (std::size_t e = 0; e < incoming.size(); ++e) plan.per_expert[e % local_experts] += incoming[e];
    const std::int64_t total =
        std::accumulate(plan.per_expert.begin(), plan.per_expert.end(), std::int64_t{0});
    plan.source = saved.tensor(DType::i32, {total});
    plan.destination = saved.tensor(DType::i32, {total});
    plan.weights = saved.tensor(DType::f32, {total});
    place_rows(plan, pft, incoming, own_begin);
    plan.complete = ep_.size() == 1;
    return plan;
  }

  // The order in which the experts compute: by expert, then by rank of origin, then by token.
  // Weights of rows from other ranks are filled in when they are here.
  void place_rows(const DispatchPlan& plan, const Pft& pft, const Counts& incoming,
                  std::int64_t own_begin) const {
    const auto ranks = static_cast<std::size_t>(ep_.size());
    const auto self = static_cast<std::size_t>(ep_.rank());
    const std::size_t local_experts = plan.per_expert.size();
    const std::int64_t sent = plan.send_tokens.dim(0);
    std::vector<std::int64_t> next(ranks, 0);  // in the buffer of received rows
    std::exclusive_scan(plan.recv_rows.begin(), plan.recv_rows.end(), next.begin(), std::int64_t{0});
    std::vector<std::int64_t> begin(incoming.size());  // of the rows of (rank, expert) in that buffer
    for (std::size_t j = 0; j < ranks; ++j)
      for (std::size_t e = 0; e < local_experts && j != self; ++e) {
        begin[j * local_experts + e] = next[j];
        next[j] += incoming[j * local_experts + e];
      }
    auto* source = plan.source.data<std::int32_t>();
    auto* destination = plan.destination.data<std::int32_t>();
    auto* weights = plan.weights.data<float>();
    const auto* token_ids = pft.token_ids.data<std::int32_t>();
    std::int64_t r = 0;
    std::int64_t own = own_begin;  // rows of this rank's own segment come in the order of the PFT
    for (std::size_t e = 0; e < local_experts; ++e) {
      for (std::size_t j = 0; j < ranks; ++j) {
        const std::int64_t count = incoming[j * local_experts + e];
        for (std::int64_t i = 0; i < count; ++i, ++r) {
          if (j == self) {
            source[r] = token_ids[own];
            destination[r] = static_cast<std::int32_t>(sent + own - own_begin);
            weights[r] = pft.weights.data<float>()[own++];
          } else {
            const std::int64_t at = begin[j * local_experts + e] + i;
            source[r] = static_cast<std::int32_t>(plan.tokens + at);
            destination[r] = static_cast<std::int32_t>(plan.local_rows + at);
          }
        }
      }
    }
  }

  Communicator& ep_;
};

}  // namespace

std::unique_ptr<Dispatcher> make_flat_dispatcher(Communicator& ep) {
  return std::make_unique<FlatDispatcher>(ep);
}

}  // namespace xmoe
