// The conventional dispatcher (GShard, DeepSpeed-MoE): a buffer of `capacity` rows for every expert, filled
// up with zeros, exchanged by an even all-to-all; the experts compute the zeros too. It is here as the
// baseline that the padding-free one is measured against.
#include <algorithm>
#include <limits>

#include "moe/dispatch/dispatcher.h"
#include "moe/dispatch/host_plans.h"
#include "moe/dispatch/passage.h"
#include "ops/gather/gather.h"

namespace xmoe {

namespace {

struct PaddedPassage final : Passage {
  explicit PaddedPassage(const Communicator& ranks) : group(ranks) {}
  RowPair end() override {
    wait_timed(group, transfer.get());
    return rows;
  }

  const Communicator& group;
  RowPair rows;
  std::unique_ptr<Transfer> transfer;
};

class PaddedDispatcher final : public Dispatcher {
 public:
  PaddedDispatcher(Communicator& ep, const MoeConfig& config) : ep_(ep), config_(config) {
    if (!config.capacity_factor)
      fail_everywhere(
          "--moe-dispatcher padded needs --moe-expert-capacity-factor: its buffers have a fixed number of "
          "rows per expert");
  }

  std::vector<DispatchPlan> plans(const Context& ctx, Arena& saved, std::span<const Pft> pfts) override {
    const profile::Scope timed(profile::Activity::pft);
    return host_plans_.plans(ctx, saved, pfts,
                             [this](const Context& host, Arena& arena, std::span<const Pft> on_host) {
                               std::vector<DispatchPlan> made;
                               for (const Pft& pft : on_host) made.push_back(make_plan(host, arena, pft));
                               return made;
                             });
  }

  std::unique_ptr<Passage> begin_dispatch(const Context& ctx, Arena& arena, const DispatchPlan& plan,
                                          const Tensor& x) override {
    auto passage = std::make_unique<PaddedPassage>(ep_);
    passage->rows.local = arena.tensor(x.dtype(), {plan.received(), x.dim(1)});
    const Tensor send = ctx.workspace.tensor(x.dtype(), {plan.local_rows, x.dim(1)});
    {
      const profile::Scope scope(profile::Activity::gather);
      gather_rows(ctx, x, plan.row_tokens, send);
    }
    const ExchangePart part{send, plan.send_rows, passage->rows.local, plan.recv_rows};
    passage->transfer = start_timed(ep_, {&part, 1});
    return passage;
  }

  RowPair results(Arena& arena, const DispatchPlan& plan, const Tensor& out) override {
    return {arena.tensor(out.dtype(), {plan.received(), out.dim(1)}), {}};
  }

  std::unique_ptr<Passage> begin_combine(const Context& ctx, const DispatchPlan& plan, const RowPair& results,
                                         const Tensor& out) override {
    const Tensor returned = ctx.workspace.tensor(out.dtype(), {plan.local_rows, out.dim(1)});
    auto passage = std::make_unique<CombinePassage>(ctx, ep_, returned, plan.combine_index, out);
    const ExchangePart part{results.local, plan.recv_rows, returned, plan.send_rows};
    passage->transfer = start_timed(ep_, {&part, 1});
    return passage;
  }

  void return_weights(const Context& ctx, const DispatchPlan& plan, const Tensor& dweights,
                      const Tensor& d_top_weights) override {
    const profile::Scope timed(profile::Activity::combine);
    const ArenaScope scope(ctx.workspace);
    const Tensor send = ctx.workspace.tensor(DType::f32, {plan.received()});
    const Tensor returned = ctx.workspace.tensor(DType::f32, {plan.local_rows});
    scatter_numbers(ctx, dweights, plan.destination, send);
    exchange(send, plan.recv_rows, returned, plan.send_rows);
    gather_numbers(ctx, returned, plan.combine_index, d_top_weights);
  }

 private:
  DispatchPlan make_plan(const Context& ctx, Arena& saved, const Pft& pft) {
    const auto experts = static_cast<std::int64_t>(pft.per_expert.size());
    const std::int64_t capacity =
        expert_capacity(pft.tokens, pft.top_k, experts, *config_.capacity_factor, config_.min_capacity);
    const std::int64_t ranks = ep_.size();
    const std::int64_t local_experts = experts / ranks;
    check_same_tokens(pft.tokens);
    if (capacity > std::numeric_limits<std::int32_t>::max() / experts)
      fail_everywhere(
          "--moe-dispatcher padded: {} experts x {} rows each are more rows than 32 bits number; lower "
          "--moe-min-capacity ({}), --moe-expert-capacity-factor ({}) or --micro-batch-size",
          experts, capacity, config_.min_capacity, *config_.capacity_factor);
    const std::int64_t rows = experts * capacity;  // in the buffer that is sent, and in the one received

    DispatchPlan plan;
    plan.tokens = pft.tokens;
    plan.packed = true;
    plan.local_rows = rows;
    plan.send_rows.assign(static_cast<std::size_t>(ranks), local_experts * capacity);
    plan.recv_rows = plan.send_rows;
    plan.per_expert.assign(static_cast<std::size_t>(local_experts), ranks * capacity);

    plan.row_tokens = saved.tensor(DType::i32, {rows});
    plan.combine_index = saved.tensor(DType::i32, pft.rows.shape());
    plan.source = saved.tensor(DType::i32, {rows});
    plan.weights = saved.tensor(DType::f32, {rows});
    const ArenaScope scope(ctx.workspace);
    const Tensor sent_weights = ctx.workspace.tensor(DType::f32, {rows});
    const Tensor place =
        ctx.workspace.tensor(DType::i32, {pft.kept()});  // of a row of the PFT in the padded buffer
    std::fill_n(plan.row_tokens.data<std::int32_t>(), rows, -1);
    std::fill_n(sent_weights.data<float>(), rows, 0.0F);
    std::int64_t row = 0;
    for (std::int64_t e = 0; e < experts; ++e) {
      for (std::int64_t i = 0; i < pft.per_expert[static_cast<std::size_t>(e)]; ++i, ++row) {
        const std::int64_t at = e * capacity + i;
        plan.row_tokens.data<std::int32_t>()[at] = pft.token_ids.data<std::int32_t>()[row];
        sent_weights.data<float>()[at] = pft.weights.data<float>()[row];
        place.data<std::int32_t>()[row] = static_cast<std::int32_t>(at);
      }
    }
    const auto* pft_rows = pft.rows.data<std::int32_t>();
    auto* combine = plan.combine_index.data<std::int32_t>();
    for (std::int64_t a = 0; a < pft.rows.numel(); ++a)
      combine[a] = pft_rows[a] < 0 ? -1 : place.data<std::int32_t>()[pft_rows[a]];

    // Received: [ep, E / ep, capacity]; the experts compute by expert, then by rank.
    const Tensor weights = ctx.workspace.tensor(DType::f32, {rows});
    exchange(sent_weights, plan.send_rows, weights, plan.recv_rows);
    std::int64_t r = 0;
    for (std::int64_t e = 0; e < local_experts; ++e) {
      for (std::int64_t j = 0; j < ranks; ++j) {
        for (std::int64_t c = 0; c < capacity; ++c, ++r) {
          const std::int64_t at = (j * local_experts + e) * capacity + c;
          plan.source.data<std::int32_t>()[r] = static_cast<std::int32_t>(at);
          plan.weights.data<float>()[r] = weights.data<float>()[at];
        }
      }
    }
    plan.destination = plan.source;
    return plan;
  }

  void exchange(const Tensor& send, std::span<const std::int64_t> send_rows, const Tensor& recv,
                std::span<const std::int64_t> recv_rows) const {
    const ExchangePart part{send, send_rows, recv, recv_rows};
    wait_timed(ep_, start_timed(ep_, {&part, 1}).get());
  }

  void check_same_tokens(std::int64_t tokens) const {
    std::int64_t extremes[] = {tokens, -tokens};
    ep_.all_reduce(Tensor(extremes, DType::i64, {2}), ReduceOp::max);
    const std::int64_t most = extremes[0];
    const std::int64_t least = -extremes[1];
    if (least != most)
      fail_everywhere(
          "--moe-dispatcher padded needs as many tokens on every rank, found {} to {}: its buffers are "
          "exchanged in equal parts; use --moe-dispatcher flat",
          least, most);
  }

  Communicator& ep_;
  MoeConfig config_;
  HostPlans host_plans_;
};

}  // namespace

std::unique_ptr<Dispatcher> make_padded_dispatcher(Communicator& ep, const MoeConfig& config) {
  return std::make_unique<PaddedDispatcher>(ep, config);
}

}  // namespace xmoe
