#include "model/transformer.h"

#include <algorithm>

#include "ops/cross_entropy/cross_entropy.h"
#include "ops/elementwise/elementwise.h"
#include "ops/embedding/embedding.h"
#include "ops/gemm/gemm.h"
#include "ops/norm/norm.h"
#include "ops/reduce/reduce.h"
#include "ops/rope/rope.h"

namespace xmoe {

AttentionShape Transformer::attention_shape(std::int64_t batch) const {
  return {.batch = batch,
          .seq = config_.seq_length,
          .heads = config_.heads,
          .kv_heads = config_.kv_heads,
          .head_dim = config_.head_dim};
}

RouterSums Transformer::sums_of(std::int64_t moe_index) const {
  const std::int64_t experts = config_.moe.router.experts;
  const Tensor sums = router_sums_[moe_index];
  return {sums.slice(0, experts), router_counts_[moe_index], sums.slice(experts, experts + 1)};
}

void Transformer::forward_mlp(const Layer& layer, const Tensor& x, const Tensor& y, LayerSaved& kept,
                              MoePass pass) {
  const Context ctx = context();
  if (layer.moe) {
    layer.moe->forward(ctx, saved_, x, y, sums_of(layer.moe_index), kept.moe, pass);
    return;
  }
  kept.mlp_h = saved_.tensor(x.dtype(), {x.dim(0), layer.mlp_w1.value.dim(1)});
  const std::int64_t all[] = {x.dim(0)};
  grouped_mlp_forward(ctx, config_.moe.activation, {all, {}, {}, {}}, {x, {}}, layer.mlp_w1.value,
                      layer.mlp_w2.value, kept.mlp_h, {y, {}});
}

Tensor Transformer::forward_layers(const Tensor& tokens, std::int64_t batch, bool keep) {
  const Context ctx = context();
  const std::int64_t rows = tokens.dim(0);
  const Shape stream = {rows, config_.hidden};
  const auto epsilon = static_cast<float>(config_.norm_epsilon);
  XMOE_CHECK(rows == batch * config_.seq_length, "{} tokens are not {} sequences of {}", rows, batch,
             config_.seq_length);
  saved_.clear();
  kept_.resize(layers_.size());
  const ArenaScope scope(workspace_);
  const Tensor normed = workspace_.tensor(dtype_, stream);
  const Tensor branch = workspace_.tensor(dtype_, stream);
  Tensor x = saved_.tensor(dtype_, stream);
  // Without backward two residual streams take turns, and what a layer keeps is given back behind it.
  Tensor spare = keep ? Tensor{} : saved_.tensor(dtype_, stream);
  embedding_forward(ctx, tokens, embedding_.value, x);
  for (std::size_t l = 0; l < layers_.size(); ++l) {
    const Layer& layer = layers_[l];
    LayerSaved& k = kept_[l];
    const Tensor next = keep ? saved_.tensor(dtype_, stream) : spare;
    const Arena::Mark mark = saved_.mark();
    k.x = x;
    k.norm1 = saved_.tensor(DType::f32, {rows, 2});
    k.norm2 = saved_.tensor(DType::f32, {rows, 2});
    k.middle = saved_.tensor(dtype_, stream);
    norm_forward(ctx, config_.norm, epsilon, x, layer.attention_norm.value, layer.attention_norm_bias.value,
                 normed, k.norm1);
    layer.attention->forward(ctx, saved_, attention_shape(batch), rope_table_, normed, branch, k.attention);
    add(ctx, x, branch, k.middle);
    norm_forward(ctx, config_.norm, epsilon, k.middle, layer.mlp_norm.value, layer.mlp_norm_bias.value,
                 normed, k.norm2);
    forward_mlp(layer, normed, branch, k, keep ? MoePass::training : MoePass::inference);
    add(ctx, k.middle, branch, next);
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
  norm_recompute(ctx, config_.norm, k.middle, layer.mlp_norm.value, layer.mlp_norm_bias.value, k.norm2,
                 normed);
  if (layer.moe) {
    layer.moe->backward(ctx, dx, normed, k.moe, router_gradients(layer, loss_scale), dnormed);
  } else {
    const std::int64_t all[] = {dx.dim(0)};
    grouped_mlp_backward(ctx, config_.moe.activation, {all, {}, {}, {}}, {dx, {}}, {normed, {}},
                         layer.mlp_w1.value, layer.mlp_w2.value, k.mlp_h, {dnormed, {}}, {},
                         layer.mlp_w1.grad, layer.mlp_w2.grad);
  }
  norm_backward(ctx, config_.norm, dnormed, k.middle, layer.mlp_norm.value, k.norm2, dx, layer.mlp_norm.grad,
                layer.mlp_norm_bias.grad);
  norm_recompute(ctx, config_.norm, k.x, layer.attention_norm.value, layer.attention_norm_bias.value, k.norm1,
                 normed);
  layer.attention->backward(ctx, attention_shape(batch), rope_table_, dx, normed, k.attention, dnormed);
  norm_backward(ctx, config_.norm, dnormed, k.x, layer.attention_norm.value, k.norm1, dx,
                layer.attention_norm.grad, layer.attention_norm_bias.grad);
}

MicroBatchResult Transformer::forward_backward(const Tensor& tokens, const Tensor& targets,
                                               std::int64_t batch, double loss_scale,
                                               const std::function<void(int stage)>& completed) {
  const Context ctx = context();
  const ArenaScope scope(workspace_);
  const std::int64_t rows = tokens.dim(0);
  MicroBatchResult result;
  const Tensor last = forward_layers(tokens, batch, /*keep=*/true);
  last_ = last;
  reduce_router_sums(rows, result);

  const auto* target = targets.data<std::int32_t>();
  std::int64_t predicted =
      std::count_if(target, target + rows, [](std::int32_t t) { return t != kIgnoredTarget; });
  predicted = mesh_.dp().all_reduce(predicted, ReduceOp::sum);
  const double denominator = static_cast<double>(std::max<std::int64_t>(1, predicted));
  const Tensor dx = workspace_.tensor(dtype_, last.shape());
  fill_zero(ctx, dx);
  {
    const ArenaScope loss_scope(workspace_);
    const Tensor stats = workspace_.tensor(DType::f32, {rows, 2});
    const Tensor normed = workspace_.tensor(dtype_, last.shape());
    const Tensor dnormed = workspace_.tensor(dtype_, last.shape());
    const Tensor losses = workspace_.tensor(DType::f32, {rows});
    norm_forward(ctx, config_.norm, static_cast<float>(config_.norm_epsilon), last, final_norm_.value,
                 final_norm_bias_.value, normed, stats);
    linear_cross_entropy(ctx, normed, output().value, config_.vocabulary, targets, losses,
                         static_cast<float>(loss_scale / denominator), dnormed, output().grad);
    norm_backward(ctx, config_.norm, dnormed, last, final_norm_.value, stats, dx, final_norm_.grad,
                  final_norm_bias_.grad);
    result.lm_loss = mesh_.dp().all_reduce(sum(ctx, losses), ReduceOp::sum) / denominator;
  }
  const auto complete = [&](std::size_t stage) {
    if (completed) completed(static_cast<int>(stage));
  };
  complete(layers_.size() + 1);
  for (std::size_t l = layers_.size(); l-- > 0;) {
    backward_layer(layers_[l], batch, kept_[l], loss_scale, dx);
    complete(l + 1);
  }
  embedding_backward(ctx, tokens, dx, embedding_.grad);
  complete(0);
  for (std::size_t l = 0; l < layers_.size(); ++l) {
    if (!layers_[l].moe) continue;
    result.dropped += kept_[l].moe.dropped;
    result.assignments += rows * config_.moe.router.top_k;
  }
  return result;
}

Tensor Transformer::final_hidden(const Tensor& tokens, std::int64_t batch) {
  const Tensor last = forward_layers(tokens, batch, /*keep=*/false);
  const Tensor stats = workspace_.tensor(DType::f32, {tokens.dim(0), 2});
  const Tensor normed = workspace_.tensor(dtype_, last.shape());
  norm_forward(context(), config_.norm, static_cast<float>(config_.norm_epsilon), last, final_norm_.value,
               final_norm_bias_.value, normed, stats);
  return normed;
}

void Transformer::evaluate(const Tensor& tokens, const Tensor& targets, std::int64_t batch,
                           const Tensor& losses) {
  const Context ctx = context();
  const ArenaScope scope(workspace_);
  const Tensor normed = final_hidden(tokens, batch);
  linear_cross_entropy(ctx, normed, output().value, config_.vocabulary, targets, losses, 1.0F, {}, {});
}

void Transformer::logits(const Tensor& tokens, std::int64_t batch, const Tensor& out) {
  const Context ctx = context();
  const ArenaScope scope(workspace_);
  const Tensor normed = final_hidden(tokens, batch);
  gemm(ctx, normed, output().value, out, {.a = Transpose::no, .b = Transpose::yes, .accumulate = false});
}

// The auxiliary losses are those of the whole micro-batch, whatever the number of ranks: their sums are taken
// over all ranks first, for all layers at once, before backward needs them.
void Transformer::reduce_router_sums(std::int64_t tokens, MicroBatchResult& result) {
  if (!router_sums_.defined()) return;
  router_tokens_ = mesh_.dp().all_reduce(tokens, ReduceOp::sum);
  mesh_.dp().all_reduce(router_sums_, ReduceOp::sum);
  mesh_.dp().all_reduce(router_counts_, ReduceOp::sum);
  const RouterConfig& r = config_.moe.router;
  const auto* counts = router_counts_.data<std::int64_t>();
  auto* total = counts_total_.data<std::int64_t>();
  for (std::int64_t i = 0; i < router_counts_.numel(); ++i) total[i] += counts[i];
  const double t = static_cast<double>(std::max<std::int64_t>(1, router_tokens_));
  for (std::int64_t l = 0; l < router_counts_.dim(0); ++l) {
    const RouterSums sums = sums_of(l);
    double balance = 0.0;
    for (std::int64_t e = 0; e < r.experts; ++e)
      balance += static_cast<double>(sums.prob_sums.data<float>()[e]) / t *
                 static_cast<double>(sums.counts.data<std::int64_t>()[e]) / t;
    result.aux_loss +=
        r.aux_loss_coeff * balance * static_cast<double>(r.experts) / static_cast<double>(r.top_k);
    result.z_loss += r.z_loss_coeff * static_cast<double>(sums.z_sum.data<float>()[0]) / t;
  }
}

// aux = coeff E / k sum_e (prob_sum_e / T) (count_e / T), in which the counts are constants.
RouterSumGradients Transformer::router_gradients(const Layer& layer, double loss_scale) const {
  const RouterConfig& r = config_.moe.router;
  const RouterSums sums = sums_of(layer.moe_index);
  const double t = static_cast<double>(std::max<std::int64_t>(1, router_tokens_));
  RouterSumGradients gradients;
  gradients.d_z_sum = static_cast<float>(loss_scale * r.z_loss_coeff / t);
  if (r.aux_loss_coeff == 0.0) return gradients;
  // The sums are not needed any more: their gradients take their place.
  gradients.d_prob_sums = sums.prob_sums;
  const double scale =
      loss_scale * r.aux_loss_coeff * static_cast<double>(r.experts) / static_cast<double>(r.top_k) / (t * t);
  for (std::int64_t e = 0; e < r.experts; ++e)
    gradients.d_prob_sums.data<float>()[e] =
        static_cast<float>(scale * static_cast<double>(sums.counts.data<std::int64_t>()[e]));
  return gradients;
}

void Transformer::clear_counts() {
  if (counts_total_.defined()) fill_zero(context(), counts_total_);
}

void Transformer::clear_gradients() {
  for (const auto& group : parameters_.groups()) fill_zero(context(), group.gradients);
}

void Transformer::update_expert_bias() {
  const RouterConfig& r = config_.moe.router;
  for (std::size_t l = 0; l < router_biases_.size(); ++l) {
    const auto* counts = counts_total_[static_cast<std::int64_t>(l)].data<std::int64_t>();
    auto* bias = router_biases_[l].data<float>();
    std::int64_t total = 0;
    for (std::int64_t e = 0; e < r.experts; ++e) total += counts[e];
    for (std::int64_t e = 0; e < r.experts; ++e) {
      // count against total / E, compared in integers
      const std::int64_t excess = counts[e] * r.experts - total;
      const double direction = excess < 0 ? 1.0 : excess > 0 ? -1.0 : 0.0;
      bias[e] += static_cast<float>(direction * r.bias_update_rate);
    }
  }
}

std::size_t Transformer::moe_saved_bytes(std::int64_t layer) const {
  return kept_[static_cast<std::size_t>(layer)].moe.bytes();
}

}  // namespace xmoe
