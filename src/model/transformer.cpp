#include "model/transformer.h"

#include <algorithm>

#include "base/profile.h"
#include "ops/elementwise/elementwise.h"
#include "ops/norm/norm.h"
#include "ops/reduce/reduce.h"

namespace xmoe {

AttentionShape Transformer::attention_shape(std::int64_t batch) const {
  return {.batch = batch,
          .seq = config_.seq_length,
          .heads = config_.heads / mesh_.tp().size(),
          .kv_heads = config_.kv_heads / mesh_.tp().size(),
          .head_dim = config_.head_dim};
}

void Transformer::forward_attention(const Layer& layer, std::int64_t batch, Arena& arena,
                                    Arena& attention_arena, const Tensor& branch, LayerSaved& k,
                                    const Tensor& normed) {
  const Context ctx = context();
  const auto epsilon = static_cast<float>(config_.norm_epsilon);
  k.norm1 = arena.tensor(DType::f32, {k.x.dim(0), 2});
  k.norm2 = arena.tensor(DType::f32, {k.x.dim(0), 2});
  k.middle = arena.tensor(dtype_, k.x.shape());
  norm_forward(ctx, config_.norm, epsilon, k.x, layer.attention_norm.value, layer.attention_norm_bias.value,
               normed, k.norm1);
  layer.attention->forward(ctx, attention_arena, attention_shape(batch), rope_table_, normed, branch,
                           k.attention);
  add(ctx, k.x, branch, k.middle);
  norm_forward(ctx, config_.norm, epsilon, k.middle, layer.mlp_norm.value, layer.mlp_norm_bias.value, normed,
               k.norm2);
}

void Transformer::forward_mlp(const Layer& layer, Arena& arena, const Tensor& x, const Tensor& y,
                              LayerSaved& kept, MoePass pass) {
  const Context ctx = context();
  if (layer.moe) {
    layer.moe->forward(ctx, saved_, x, y, sums_of(layer.moe_index), kept.moe, pass);
    return;
  }
  kept.mlp_h = arena.tensor(dtype_, {x.dim(0) * mesh_.tp().size(), layer.mlp->preactivations()});
  layer.mlp->forward(ctx, x, kept.mlp_h, y);
}

Tensor Transformer::forward_layers(const Tensor& tokens, std::int64_t batch, bool keep) {
  const Context ctx = context();
  XMOE_CHECK(tokens.dim(0) == batch * config_.seq_length, "{} tokens are not {} sequences of {}",
             tokens.dim(0), batch, config_.seq_length);
  XMOE_CHECK(tokens.dim(0) % mesh_.tp().size() == 0, "{} tokens do not divide over {} tensor-parallel ranks",
             tokens.dim(0), mesh_.tp().size());
  const Shape stream = {tokens.dim(0) / mesh_.tp().size(), config_.hidden};
  saved_.clear();
  kept_.resize(layers_.size());
  const ArenaScope scope(workspace_);
  const Tensor normed = workspace_.tensor(dtype_, stream);
  const Tensor branch = workspace_.tensor(dtype_, stream);
  Tensor x = saved_.tensor(dtype_, stream);
  // Without backward two residual streams take turns, and what a layer keeps is given back behind it.
  Tensor spare = keep ? Tensor{} : saved_.tensor(dtype_, stream);
  projections_->embed(ctx, tokens, x);
  const RecomputeConfig recompute = keep ? config_.recompute : RecomputeConfig{};
  const auto arena_of = [&](bool again) -> Arena& { return again || recompute.layer ? workspace_ : saved_; };
  for (std::size_t l = 0; l < layers_.size(); ++l) {
    const profile::LayerScope layer_scope(static_cast<std::int64_t>(l));
    const Layer& layer = layers_[l];
    LayerSaved& k = kept_[l];
    const Tensor next = keep ? saved_.tensor(dtype_, stream) : spare;
    const Arena::Mark mark = saved_.mark();
    const ArenaScope scratch(workspace_);
    k = {};
    k.x = x;
    forward_attention(layer, batch, arena_of(false), arena_of(recompute.attention), branch, k, normed);
    forward_mlp(layer, arena_of(recompute.mlp), normed, branch, k,
                keep ? MoePass::training : MoePass::inference);
    add(ctx, k.middle, branch, next);
    // What lies in the workspace ends here.
    if (recompute.attention) k.attention = {};
    if (recompute.mlp) k.mlp_h = {};
    if (recompute.layer) k.forget();
    spare = x;
    x = next;
    if (!keep) saved_.rewind(mark);
  }
  return x;
}

void Transformer::backward_layer(const Layer& layer, std::int64_t batch, LayerSaved& k, double loss_scale,
                                 const Tensor& dx) {
  const Context ctx = context();
  const ArenaScope scope(workspace_);
  const Tensor normed = workspace_.tensor(dtype_, dx.shape());
  const Tensor dnormed = workspace_.tensor(dtype_, dx.shape());
  if (config_.recompute.layer) {
    forward_attention(layer, batch, workspace_, workspace_, /*branch=*/dnormed, k, normed);
  } else {
    norm_recompute(ctx, config_.norm, k.middle, layer.mlp_norm.value, layer.mlp_norm_bias.value, k.norm2,
                   normed);
  }
  if (layer.moe) {
    layer.moe->backward(ctx, dx, normed, k.moe, router_gradients(layer, loss_scale), dnormed,
                        experts_accumulation_);
  } else {
    layer.mlp->backward(ctx, dx, normed, k.mlp_h, dnormed);
  }
  norm_backward(ctx, config_.norm, dnormed, k.middle, layer.mlp_norm.value, k.norm2, dx, layer.mlp_norm.grad,
                layer.mlp_norm_bias.grad);
  norm_recompute(ctx, config_.norm, k.x, layer.attention_norm.value, layer.attention_norm_bias.value, k.norm1,
                 normed);
  layer.attention->backward(ctx, attention_shape(batch), rope_table_, dx, normed, k.attention, dnormed);
  norm_backward(ctx, config_.norm, dnormed, k.x, layer.attention_norm.value, k.norm1, dx,
                layer.attention_norm.grad, layer.attention_norm_bias.grad);
  if (config_.recompute.layer) k.forget();
}

double Transformer::forward_backward_loss(const Tensor& last, const Tensor& targets, double loss_scale,
                                          const Tensor& dx) {
  const Context ctx = context();
  const ArenaScope scope(workspace_);
  const std::int64_t rows = targets.dim(0);
  const auto* target = targets.data<std::int32_t>();
  std::int64_t predicted =
      std::count_if(target, target + rows, [](std::int32_t t) { return t != kIgnoredTarget; });
  predicted = mesh_.dp().all_reduce(predicted, ReduceOp::sum);
  const double denominator = static_cast<double>(std::max<std::int64_t>(1, predicted));
  const Tensor stats = workspace_.tensor(DType::f32, {last.dim(0), 2});
  const Tensor normed = workspace_.tensor(dtype_, last.shape());
  const Tensor dnormed = workspace_.tensor(dtype_, last.shape());
  const Tensor losses = workspace_.tensor(DType::f32, {rows});
  norm_forward(ctx, config_.norm, static_cast<float>(config_.norm_epsilon), last, final_norm_.value,
               final_norm_bias_.value, normed, stats);
  projections_->losses(ctx, normed, ctx.here(targets), losses, static_cast<float>(loss_scale / denominator),
                       dnormed);
  fill_zero(ctx, dx);
  norm_backward(ctx, config_.norm, dnormed, last, final_norm_.value, stats, dx, final_norm_.grad,
                final_norm_bias_.grad);
  // The ranks of a tensor-parallel group have the same losses: each dp group counts every token once.
  return mesh_.dp().all_reduce(sum(ctx, losses), ReduceOp::sum) / denominator;
}

MicroBatchResult Transformer::forward_backward(const Tensor& tokens, const Tensor& targets,
                                               std::int64_t batch, double loss_scale,
                                               const std::function<void(int stage)>& completed) {
  const ArenaScope scope(workspace_);
  MicroBatchResult result;
  const Tensor last = forward_layers(tokens, batch, /*keep=*/true);
  last_ = last;
  const std::int64_t rows = last.dim(0);
  reduce_router_sums(rows, loss_scale, result);
  const Tensor dx = workspace_.tensor(dtype_, last.shape());
  result.lm_loss = forward_backward_loss(last, targets, loss_scale, dx);
  const auto complete = [&](std::size_t stage) {
    if (completed) completed(static_cast<int>(stage));
  };
  complete(layers_.size() + 1);
  for (std::size_t l = layers_.size(); l-- > 0;) {
    const profile::LayerScope layer_scope(static_cast<std::int64_t>(l));
    backward_layer(layers_[l], batch, kept_[l], loss_scale, dx);
    complete(l + 1);
  }
  projections_->embed_backward(context(), tokens, dx);
  complete(0);
  experts_accumulation_ = Accumulation::add;
  for (std::size_t l = 0; l < layers_.size(); ++l) {
    if (!layers_[l].moe) continue;
    result.dropped += kept_[l].moe.dropped;
    result.assignments += rows * config_.moe.router.top_k;
  }
  return result;
}

Tensor Transformer::final_hidden(const Tensor& tokens, std::int64_t batch) {
  const Tensor last = forward_layers(tokens, batch, /*keep=*/false);
  const Tensor stats = workspace_.tensor(DType::f32, {last.dim(0), 2});
  const Tensor normed = workspace_.tensor(dtype_, last.shape());
  norm_forward(context(), config_.norm, static_cast<float>(config_.norm_epsilon), last, final_norm_.value,
               final_norm_bias_.value, normed, stats);
  return normed;
}

void Transformer::evaluate(const Tensor& tokens, const Tensor& targets, std::int64_t batch,
                           const Tensor& losses) {
  const ArenaScope scope(workspace_);
  const Context ctx = context();
  const Tensor normed = final_hidden(tokens, batch);
  const Tensor own = workspace_.tensor(DType::f32, losses.shape());
  projections_->losses(ctx, normed, ctx.here(targets), own, 1.0F, {});
  copy_across(own, losses);
}

void Transformer::logits(const Tensor& tokens, std::int64_t batch, const Tensor& out) {
  const ArenaScope scope(workspace_);
  const Tensor own = workspace_.tensor(DType::f32, out.shape());
  projections_->logits(context(), final_hidden(tokens, batch), own);
  copy_across(own, out);
}

void Transformer::clear_gradients() {
  for (const auto& group : parameters_.groups())
    if (group.replication != Replication::expert) fill_zero(context(), group.gradients);
  experts_accumulation_ = Accumulation::write;
}

std::size_t Transformer::high_water(MemoryTag tag) const {
  std::size_t bytes = 0;
  for (const Arena* arena : arenas())
    if (arena->tag() == tag) bytes += arena->high_water();
  return bytes;
}

std::size_t Transformer::moe_saved_bytes(std::int64_t layer) const {
  const LayerSaved& k = kept_[static_cast<std::size_t>(layer)];
  return k.moe.bytes() + k.middle.bytes() + k.norm2.bytes();
}

}  // namespace xmoe
