#include "moe/layer.h"

#include <utility>

#include "base/profile.h"
#include "comm/row_shards.h"
#include "ops/elementwise/elementwise.h"
#include "ops/router/router.h"

namespace xmoe {

namespace {

// Of the assignments that a tensor-parallel group drops together, the part that one of its ranks counts.
std::int64_t counted_here(std::int64_t dropped, const Communicator* group) {
  if (group == nullptr) return dropped;
  return dropped * (group->rank() + 1) / group->size() - dropped * group->rank() / group->size();
}

Tensor of_chunk(const Tensor& rows, const TokenChunk& chunk) { return rows.slice(chunk.first, chunk.end); }

}  // namespace

std::size_t MoeSaved::bytes() const {
  std::size_t total = logits.bytes() + top_experts.bytes() + shared_h.bytes();
  for (const TokenChunk& c : chunks) {
    total += c.plan.bytes() + c.h.bytes() + c.x.remote.bytes();
    // Else it is the layer's input, which belongs to the caller.
    if (c.plan.packed) total += c.x.local.bytes();
  }
  return total;
}

MoeLayer::MoeLayer(const MoeConfig& config, const MoeWeights& weights, const Mesh& mesh,
                   const MoeRecompute& recompute)
    : config_(config),
      weights_(weights),
      recompute_(recompute),
      expert_tp_(mesh.layout().expert_tensor && mesh.tp().size() > 1 ? &mesh.tp() : nullptr),
      dispatcher_(make_dispatcher(mesh.ep(), mesh.ep_node(), config)),
      inference_dispatcher_(make_flat_dispatcher(mesh.ep())) {
  if (config.overlap_chunks > 1 && config.dispatcher == DispatcherKind::padded)
    fail_everywhere(
        "--moe-overlap-chunks {} with --moe-dispatcher padded: its buffers have room for the tokens of a "
        "whole micro-batch; use --moe-dispatcher flat or rbd, or one chunk",
        config.overlap_chunks);
}

RoutingOptions MoeLayer::routing_options() const {
  const RouterConfig& r = config_.router;
  return {.top_k = r.top_k,
          .score_function = r.score_function,
          .pre_softmax = r.pre_softmax,
          .normalize_topk = r.normalize_topk,
          .scaling_factor = static_cast<float>(r.scaling_factor),
          .groups = r.groups,
          .topk_groups = r.topk_groups};
}

Tensor MoeLayer::gathered(const Context& ctx, const Tensor& own) const {
  return expert_tp_ == nullptr ? own : gather_row_shards(ctx, *expert_tp_, own);
}

Tensor MoeLayer::partial(const Context& ctx, const Tensor& own) const {
  return expert_tp_ == nullptr ? own : partial_rows(ctx, *expert_tp_, own);
}

void MoeLayer::scatter(const Tensor& partial, const Tensor& own) const {
  if (expert_tp_ != nullptr) scatter_row_sums(*expert_tp_, partial, own);
}

void MoeLayer::route(const Context& ctx, Arena& saved, const Tensor& x, const RouterSums& sums,
                     MoeSaved& kept, MoePass pass) const {
  const std::int64_t tokens = x.dim(0);
  const RouterConfig& r = config_.router;
  kept.logits = saved.tensor(DType::f32, {tokens, r.experts});
  kept.top_experts = saved.tensor(DType::i32, {tokens, r.top_k});
  // What plans do not keep of the PFTs lives only until they are made.
  const ArenaScope scope(ctx.workspace);
  const Tensor top_weights = ctx.workspace.tensor(DType::f32, {tokens, r.top_k});
  {
    const profile::Scope activity(profile::Activity::gating);
    router_logits(ctx, x, weights_.router.value, kept.logits);
    routing_forward(ctx, routing_options(), kept.logits, weights_.router_bias, kept.top_experts, top_weights,
                    sums.prob_sums, sums.counts, sums.z_sum);
  }
  const profile::Scope activity(profile::Activity::pft);
  const Tensor all_experts = gathered(ctx, kept.top_experts);
  const Tensor all_weights = gathered(ctx, top_weights);
  const std::int64_t all = all_experts.dim(0);
  std::optional<std::int64_t> capacity;
  if (config_.capacity_factor && pass == MoePass::training)
    capacity = expert_capacity(all, r.top_k, r.experts, *config_.capacity_factor, config_.min_capacity);
  const std::int64_t chunks = pass == MoePass::training ? config_.overlap_chunks : 1;
  Arena& pft_arena = dispatcher(pass).keeps_pft() ? saved : ctx.workspace;
  Arena& weights_arena = dispatcher(pass).keeps_weights() ? saved : ctx.workspace;
  const std::vector<Pft> pfts =
      build_pfts(ctx, pft_arena, weights_arena, r.experts, all_experts, all_weights, capacity, chunks);
  std::int64_t dropped = 0;
  for (std::int64_t i = 0; i < chunks; ++i) {
    kept.chunks.push_back(token_chunk(all, i, chunks));
    dropped += pfts[static_cast<std::size_t>(i)].dropped();
  }
  kept.dropped = counted_here(dropped, expert_tp_);
  std::vector<DispatchPlan> plans = dispatcher(pass).plans(ctx, saved, pfts);
  for (std::size_t i = 0; i < plans.size(); ++i) kept.chunks[i].plan = std::move(plans[i]);
}

void MoeLayer::forward(const Context& ctx, Arena& saved, const Tensor& x, const Tensor& y,
                       const RouterSums& sums, MoeSaved& kept, MoePass pass) {
  XMOE_CHECK(&saved != &ctx.workspace, "what is kept would be gone with the workspace");
  kept = {};
  route(ctx, saved, x, sums, kept, pass);
  {
    const ArenaScope scope(ctx.workspace);
    Arena& rows_arena = recompute_.experts ? ctx.workspace : saved;
    const Tensor all_x = gathered(ctx, x);
    const Tensor all_y = partial(ctx, y);
    run_chunks(ctx, dispatcher(pass), kept.chunks, rows_arena, all_x, all_y,
               [&](std::size_t i, const RowPair& rows) {
                 TokenChunk& c = kept.chunks[i];
                 const ExpertRows expert_rows = c.plan.expert_rows();
                 c.x = rows;
                 c.h = rows_arena.tensor(x.dtype(), {expert_rows.total(), weights_.experts_w1.value.dim(1)});
                 const RowPair results = dispatcher(pass).results(ctx.workspace, c.plan, of_chunk(all_y, c));
                 const profile::Scope activity(profile::Activity::experts);
                 grouped_mlp_forward(ctx, config_.activation, expert_rows, rows, weights_.experts_w1.value,
                                     weights_.experts_w2.value, c.h, results);
                 return results;
               });
    scatter(all_y, y);
    if (recompute_.experts)
      for (TokenChunk& c : kept.chunks) c.x = {}, c.h = {};
  }
  if (weights_.shared_w1.value.defined()) forward_shared(ctx, saved, x, y, kept);
}

void MoeLayer::forward_shared(const Context& ctx, Arena& saved, const Tensor& x, const Tensor& y,
                              MoeSaved& kept) const {
  const profile::Scope activity(profile::Activity::dense);
  const ArenaScope scope(ctx.workspace);
  const Tensor shared_y = ctx.workspace.tensor(x.dtype(), x.shape());
  const Tensor h = (recompute_.shared ? ctx.workspace : saved)
                       .tensor(x.dtype(), {x.dim(0), weights_.shared_w1.value.dim(1)});
  const std::int64_t all[] = {x.dim(0)};
  grouped_mlp_forward(ctx, config_.activation, {all, {}, {}, {}}, {x, {}}, weights_.shared_w1.value,
                      weights_.shared_w2.value, h, {shared_y, {}});
  add(ctx, y, shared_y, y);
  if (!recompute_.shared) kept.shared_h = h;
}

void MoeLayer::backward(const Context& ctx, const Tensor& dy, const Tensor& x, MoeSaved& kept,
                        const RouterSumGradients& router_gradients, const Tensor& dx,
                        Accumulation accumulation) {
  const ArenaScope scope(ctx.workspace);
  const Tensor d_top_weights = ctx.workspace.tensor(DType::f32, kept.top_experts.shape());
  backward_experts(ctx, dy, x, kept, dx, accumulation, d_top_weights);
  if (weights_.shared_w1.value.defined()) backward_shared(ctx, dy, x, kept, dx);
  backward_router(ctx, x, kept, router_gradients, d_top_weights, dx);
}

void MoeLayer::backward_experts(const Context& ctx, const Tensor& dy, const Tensor& x, MoeSaved& kept,
                                const Tensor& dx, Accumulation accumulation,
                                const Tensor& d_top_weights) const {
  const ArenaScope scope(ctx.workspace);
  std::vector<TokenChunk> again;
  if (recompute_.experts) again = kept.chunks;
  std::vector<TokenChunk>& chunks = recompute_.experts ? again : kept.chunks;
  const bool packed = chunks.front().plan.packed;
  const Tensor all_x = packed && !recompute_.experts ? x : gathered(ctx, x);
  if (recompute_.experts)
    run_chunks(ctx, *dispatcher_, chunks, ctx.workspace, all_x, {}, [&](std::size_t i, const RowPair& rows) {
      TokenChunk& c = chunks[i];
      const ExpertRows expert_rows = c.plan.expert_rows();
      c.x = rows;
      c.h = ctx.workspace.tensor(x.dtype(), {expert_rows.total(), weights_.experts_w1.value.dim(1)});
      const profile::Scope activity(profile::Activity::experts);
      grouped_mlp_forward(ctx, config_.activation, expert_rows, rows, weights_.experts_w1.value,
                          weights_.experts_w2.value, c.h, {});
      return RowPair{};
    });
  const Tensor all_dy = gathered(ctx, dy);
  const Tensor all_dx = partial(ctx, dx);
  std::vector<Tensor> dweights(chunks.size());
  run_chunks(
      ctx, *dispatcher_, chunks, ctx.workspace, all_dy, all_dx, [&](std::size_t i, const RowPair& dy_rows) {
        TokenChunk& c = chunks[i];
        const ExpertRows expert_rows = c.plan.expert_rows();
        const RowPair dx_rows = dispatcher_->results(ctx.workspace, c.plan, of_chunk(all_dx, c));
        dweights[i] = ctx.workspace.tensor(DType::f32, {expert_rows.total()});
        // x was recomputed since forward: rows of this rank's own tokens are read from where it is
        // now.
        const RowPair x_rows = packed ? c.x : RowPair{of_chunk(all_x, c), c.x.remote};
        const Accumulation accumulated = i == 0 ? accumulation : Accumulation::add;
        const profile::Scope activity(profile::Activity::experts);
        grouped_mlp_backward(ctx, config_.activation, expert_rows, dy_rows, x_rows, weights_.experts_w1.value,
                             weights_.experts_w2.value, c.h, dx_rows, dweights[i], weights_.experts_w1.grad,
                             weights_.experts_w2.grad, accumulated);
        return dx_rows;
      });
  scatter(all_dx, dx);
  const Tensor all_d_weights = partial(ctx, d_top_weights);
  for (std::size_t i = 0; i < chunks.size(); ++i)
    dispatcher_->return_weights(ctx, chunks[i].plan, dweights[i], of_chunk(all_d_weights, chunks[i]));
  scatter(all_d_weights, d_top_weights);
}

void MoeLayer::backward_shared(const Context& ctx, const Tensor& dy, const Tensor& x, const MoeSaved& kept,
                               const Tensor& dx) const {
  const profile::Scope activity(profile::Activity::dense);
  const ArenaScope scope(ctx.workspace);
  const Tensor shared_dx = ctx.workspace.tensor(dx.dtype(), dx.shape());
  const std::int64_t all[] = {x.dim(0)};
  const ExpertRows rows{all, {}, {}, {}};
  Tensor h = kept.shared_h;
  if (!h.defined()) {
    h = ctx.workspace.tensor(x.dtype(), {x.dim(0), weights_.shared_w1.value.dim(1)});
    grouped_mlp_forward(ctx, config_.activation, rows, {x, {}}, weights_.shared_w1.value,
                        weights_.shared_w2.value, h, {});
  }
  grouped_mlp_backward(ctx, config_.activation, rows, {dy, {}}, {x, {}}, weights_.shared_w1.value,
                       weights_.shared_w2.value, h, {shared_dx, {}}, {}, weights_.shared_w1.grad,
                       weights_.shared_w2.grad, Accumulation::add);
  add(ctx, dx, shared_dx, dx);
}

void MoeLayer::backward_router(const Context& ctx, const Tensor& x, const MoeSaved& kept,
                               const RouterSumGradients& gradients, const Tensor& d_top_weights,
                               const Tensor& dx) const {
  const profile::Scope activity(profile::Activity::gating);
  const ArenaScope scope(ctx.workspace);
  const Tensor dlogits = ctx.workspace.tensor(DType::f32, kept.logits.shape());
  routing_backward(ctx, routing_options(), kept.logits, kept.top_experts, d_top_weights,
                   gradients.d_prob_sums, gradients.d_z_sum, dlogits);
  router_backward(ctx, dlogits, x, weights_.router.value, weights_.router.grad, dx);
}

}  // namespace xmoe
