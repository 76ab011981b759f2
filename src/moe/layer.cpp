#include "moe/layer.h"

#include "ops/elementwise/elementwise.h"
#include "ops/gemm/gemm.h"

namespace xmoe {

namespace {

constexpr GemmOptions kTimesTransposed{.a = Transpose::no, .b = Transpose::yes, .accumulate = false};
constexpr GemmOptions kAccumulateTransposed{.a = Transpose::yes, .b = Transpose::no, .accumulate = true};

// x in f32: itself, or widened into the workspace.
Tensor as_f32(const Context& ctx, const Tensor& x) {
  if (x.dtype() == DType::f32) return x;
  const Tensor wide = ctx.workspace.tensor(DType::f32, x.shape());
  convert(ctx, x, wide);
  return wide;
}

}  // namespace

std::size_t MoeSaved::bytes() const {
  std::size_t total = logits.bytes() + top_experts.bytes() + plan.bytes() + h.bytes();
  if (plan.packed) total += x.local.bytes();  // else it is the layer's input, which belongs to the caller
  if (x.remote.defined()) total += x.remote.bytes();
  if (shared_h.defined()) total += shared_h.bytes();
  return total;
}

MoeLayer::MoeLayer(const MoeConfig& config, const MoeWeights& weights, Communicator& ep)
    : config_(config),
      weights_(weights),
      dispatcher_(make_dispatcher(ep, ep, config)),
      inference_dispatcher_(make_flat_dispatcher(ep)) {}

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

void MoeLayer::forward(const Context& ctx, Arena& saved, const Tensor& x, const Tensor& y,
                       const RouterSums& sums, MoeSaved& kept, MoePass pass) {
  XMOE_CHECK(&saved != &ctx.workspace, "what is kept would be gone with the workspace");
  Dispatcher& dispatcher = pass == MoePass::training ? *dispatcher_ : *inference_dispatcher_;
  const std::int64_t tokens = x.dim(0);
  const RouterConfig& r = config_.router;
  kept.logits = saved.tensor(DType::f32, {tokens, r.experts});
  kept.top_experts = saved.tensor(DType::i32, {tokens, r.top_k});
  {
    // The PFT lives only until the plan is made.
    const ArenaScope scope(ctx.workspace);
    gemm(ctx, as_f32(ctx, x), weights_.router.value, kept.logits, kTimesTransposed);
    const Tensor top_weights = ctx.workspace.tensor(DType::f32, {tokens, r.top_k});
    routing_forward(ctx, routing_options(), kept.logits, weights_.router_bias, kept.top_experts, top_weights,
                    sums.prob_sums, sums.counts, sums.z_sum);
    std::optional<std::int64_t> capacity;
    if (config_.capacity_factor && pass == MoePass::training)
      capacity = expert_capacity(tokens, r.top_k, r.experts, *config_.capacity_factor, config_.min_capacity);
    const Pft pft = build_pft(ctx.workspace, r.experts, kept.top_experts, top_weights, capacity);
    kept.dropped = pft.dropped();
    kept.plan = dispatcher.plan(ctx, saved, pft);
  }
  kept.x = dispatcher.dispatch(ctx, saved, kept.plan, x);
  const ExpertRows rows = kept.plan.expert_rows();
  kept.h = saved.tensor(x.dtype(), {rows.total(), weights_.experts_w1.value.dim(1)});
  const ArenaScope scope(ctx.workspace);
  const RowPair results = dispatcher.results(ctx.workspace, kept.plan, x);
  grouped_mlp_forward(ctx, config_.activation, rows, kept.x, weights_.experts_w1.value,
                      weights_.experts_w2.value, kept.h, results);
  dispatcher.combine(ctx, kept.plan, results, y);
  if (weights_.shared_w1.value.defined()) {
    const Tensor shared_y = ctx.workspace.tensor(x.dtype(), x.shape());
    kept.shared_h = saved.tensor(x.dtype(), {tokens, weights_.shared_w1.value.dim(1)});
    const std::int64_t all[] = {tokens};
    grouped_mlp_forward(ctx, config_.activation, {all, {}, {}, {}}, {x, {}}, weights_.shared_w1.value,
                        weights_.shared_w2.value, kept.shared_h, {shared_y, {}});
    add(ctx, y, shared_y, y);
  }
}

void MoeLayer::backward(const Context& ctx, const Tensor& dy, const Tensor& x, MoeSaved& kept,
                        const RouterSumGradients& router_gradients, const Tensor& dx) {
  const std::int64_t tokens = x.dim(0);
  const ArenaScope scope(ctx.workspace);
  const ExpertRows rows = kept.plan.expert_rows();
  const Tensor d_top_weights = ctx.workspace.tensor(DType::f32, kept.top_experts.shape());
  {
    const ArenaScope rows_scope(ctx.workspace);
    const RowPair dy_rows = dispatcher_->dispatch(ctx, ctx.workspace, kept.plan, dy);
    const RowPair dx_rows = dispatcher_->results(ctx.workspace, kept.plan, dy);
    const Tensor dweights = ctx.workspace.tensor(DType::f32, {rows.total()});
    // x was recomputed since forward: rows of this rank's own tokens are read from where it is now.
    const RowPair x_rows = kept.plan.packed ? kept.x : RowPair{x, kept.x.remote};
    grouped_mlp_backward(ctx, config_.activation, rows, dy_rows, x_rows, weights_.experts_w1.value,
                         weights_.experts_w2.value, kept.h, dx_rows, dweights, weights_.experts_w1.grad,
                         weights_.experts_w2.grad);
    dispatcher_->combine(ctx, kept.plan, dx_rows, dx);
    dispatcher_->return_weights(ctx, kept.plan, dweights, d_top_weights);
  }
  if (weights_.shared_w1.value.defined()) {
    const ArenaScope shared_scope(ctx.workspace);
    const Tensor shared_dx = ctx.workspace.tensor(dx.dtype(), dx.shape());
    const std::int64_t all[] = {tokens};
    grouped_mlp_backward(ctx, config_.activation, {all, {}, {}, {}}, {dy, {}}, {x, {}},
                         weights_.shared_w1.value, weights_.shared_w2.value, kept.shared_h, {shared_dx, {}},
                         {}, weights_.shared_w1.grad, weights_.shared_w2.grad);
    add(ctx, dx, shared_dx, dx);
  }
  const Tensor dlogits = ctx.workspace.tensor(DType::f32, kept.logits.shape());
  routing_backward(ctx, routing_options(), kept.logits, kept.top_experts, d_top_weights,
                   router_gradients.d_prob_sums, router_gradients.d_z_sum, dlogits);
  gemm(ctx, dlogits, as_f32(ctx, x), weights_.router.grad, kAccumulateTransposed);
  const Tensor router_dx = ctx.workspace.tensor(DType::f32, dx.shape());
  gemm(ctx, dlogits, weights_.router.value, router_dx, {});
  add(ctx, dx, router_dx, dx);
}

}  // namespace xmoe
