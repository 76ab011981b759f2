#pragma once

#include "ops/routing/routing.h"

namespace xmoe::gpu {

void routing_forward(const Context& ctx, const RoutingOptions& options, const Tensor& logits,
                     const Tensor& bias, const Tensor& top_experts, const Tensor& top_weights,
                     const Tensor& prob_sums, const Tensor& counts, const Tensor& z_sum);
void routing_backward(const Context& ctx, const RoutingOptions& options, const Tensor& logits,
                      const Tensor& top_experts, const Tensor& d_weights, const Tensor& d_prob_sums,
                      float d_z_sum, const Tensor& dlogits);

}  // namespace xmoe::gpu
