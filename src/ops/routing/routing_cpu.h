// Letters: T tokens, E experts, k choices per token.
#pragma once

#include "ops/routing/routing.h"

namespace xmoe::cpu {

void routing_forward(const Context& ctx, const RoutingOptions& options,
                     const Tensor& logits,       // [T, E]
                     const Tensor& bias,         // [E] or undefined
                     const Tensor& top_experts,  // [T, k]
                     const Tensor& top_weights,  // [T, k]
                     const Tensor& prob_sums,    // [E]
                     const Tensor& counts,       // [E]
                     const Tensor& z_sum);       // [1]

void routing_backward(const Context& ctx, const RoutingOptions& options,
                      const Tensor& logits,       // [T, E]
                      const Tensor& top_experts,  // [T, k]
                      const Tensor& d_weights,    // [T, k]
                      const Tensor& d_prob_sums,  // [E] or undefined
                      float d_z_sum,
                      const Tensor& dlogits);  // [T, E]

}  // namespace xmoe::cpu
