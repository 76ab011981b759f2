// What the routers of all layers have in common: the sums over the whole micro-batch behind the auxiliary
// losses, and the expert bias.
#include <algorithm>

#include "model/transformer.h"

namespace xmoe {

RouterSums Transformer::sums_of(std::int64_t moe_index) const {
  const std::int64_t experts = config_.moe.router.experts;
  const Tensor sums = router_sums_[moe_index];
  return {sums.slice(0, experts), router_counts_[moe_index], sums.slice(experts, experts + 1)};
}

// The auxiliary losses are those of the whole micro-batch, whatever the number of ranks: their sums are taken
// over all ranks first, for all layers at once, before backward needs them.
void Transformer::reduce_router_sums(std::int64_t tokens, double loss_scale, MicroBatchResult& result) {
  if (!router_sums_.defined()) return;
  router_tokens_ = tokens * mesh_.world().size();  // all ranks hold as many
  mesh_.world().all_reduce(router_sums_, ReduceOp::sum);
  mesh_.world().all_reduce(router_counts_, ReduceOp::sum);
  copy_across(router_sums_, host_sums_);
  copy_across(router_counts_, host_counts_);
  const RouterConfig& r = config_.moe.router;
  const auto* counts = host_counts_.data<std::int64_t>();
  auto* total = counts_total_.data<std::int64_t>();
  for (std::int64_t i = 0; i < host_counts_.numel(); ++i) total[i] += counts[i];
  const double t = static_cast<double>(std::max<std::int64_t>(1, router_tokens_));
  // aux = coeff E / k sum_e (prob_sum_e / T) (count_e / T), in which the counts are constants.
  const double coefficient =
      r.aux_loss_coeff * static_cast<double>(r.experts) / static_cast<double>(r.top_k) / (t * t);
  for (std::int64_t l = 0; l < host_counts_.dim(0); ++l) {
    const auto* sums = host_sums_[l].data<float>();
    const auto* count = host_counts_[l].data<std::int64_t>();
    auto* gradient = host_gradients_[l].data<float>();
    double balance = 0.0;
    for (std::int64_t e = 0; e < r.experts; ++e) {
      balance += static_cast<double>(sums[e]) * static_cast<double>(count[e]);
      gradient[e] = static_cast<float>(loss_scale * coefficient * static_cast<double>(count[e]));
    }
    result.aux_loss += coefficient * balance;
    result.z_loss += r.z_loss_coeff * static_cast<double>(sums[r.experts]) / t;
  }
  copy_across(host_gradients_, router_gradients_);
}

RouterSumGradients Transformer::router_gradients(const Layer& layer, double loss_scale) const {
  const RouterConfig& r = config_.moe.router;
  const double t = static_cast<double>(std::max<std::int64_t>(1, router_tokens_));
  RouterSumGradients gradients;
  gradients.d_z_sum = static_cast<float>(loss_scale * r.z_loss_coeff / t);
  if (r.aux_loss_coeff != 0.0) gradients.d_prob_sums = router_gradients_[layer.moe_index];
  return gradients;
}

void Transformer::clear_counts() {
  if (counts_total_.defined()) device_fill({}, counts_total_.raw(), 0, counts_total_.bytes());
}

void Transformer::update_expert_bias() {
  const RouterConfig& r = config_.moe.router;
  const ArenaScope scope(host_);
  for (std::size_t l = 0; l < router_biases_.size(); ++l) {
    const auto* counts = counts_total_[static_cast<std::int64_t>(l)].data<std::int64_t>();
    const Tensor updated = host_.tensor(DType::f32, router_biases_[l].shape());
    copy_across(router_biases_[l], updated);
    auto* bias = updated.data<float>();
    std::int64_t total = 0;
    for (std::int64_t e = 0; e < r.experts; ++e) total += counts[e];
    for (std::int64_t e = 0; e < r.experts; ++e) {
      // count against total / E, compared in integers
      const std::int64_t excess = counts[e] * r.experts - total;
      const double direction = excess < 0 ? 1.0 : excess > 0 ? -1.0 : 0.0;
      bias[e] += static_cast<float>(direction * r.bias_update_rate);
    }
    copy_across(updated, router_biases_[l]);
  }
}

}  // namespace xmoe
