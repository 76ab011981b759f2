// From router logits to the choice of experts, and back. All in f32; counts in i64.
//
//   scores   softmax over experts (pre_softmax), sigmoid, or raw logits (softmax over the selected ones:
//            post-softmax)
//   choice   the k best of score + bias; the bias (auxiliary-loss-free balancing, Wang et al. 2024) affects
//            the choice only. Ties: the lower expert index. NaN never wins over a number.
//            With groups > 1 experts are split evenly into groups, groups are ranked by the sum of the two
//            best biased scores of their experts (DeepSeek-V3; by the best one when there is no bias:
//            DeepSeek-V2), and only experts of the topk_groups best groups are eligible.
//   weights  scores of the chosen (post-softmax: softmax over the chosen logits), divided by their sum if
//            normalize_topk, times the scaling factor. For sigmoid the sum is taken with 1e-20 added.
//   probs    what the auxiliary loss averages: softmax of the logits over all experts; for sigmoid the
//            scores divided by their sum (1e-20 added).
//
// Slots are ordered by decreasing biased score. Sums over tokens are taken in fixed blocks of tokens, so that
// they do not depend on the number of threads.
#pragma once

#include <cstdint>

#include "device/context.h"
#include "device/tensor.h"

namespace xmoe {

enum class ScoreFunction : std::uint8_t { softmax, sigmoid };

struct RoutingOptions {
  std::int64_t top_k = 2;
  ScoreFunction score_function = ScoreFunction::softmax;
  bool pre_softmax = false;
  bool normalize_topk = false;
  float scaling_factor = 1.0F;
  std::int64_t groups = 1;
  std::int64_t topk_groups = 1;
};

void routing_forward(const Context& ctx, const RoutingOptions& options,
                     const Tensor& logits,       // [T, E] f32
                     const Tensor& bias,         // [E] f32, or undefined
                     const Tensor& top_experts,  // [T, k] i32
                     const Tensor& top_weights,  // [T, k] f32
                     const Tensor& prob_sums,    // [E] f32: sums over tokens of probs
                     const Tensor& counts,       // [E] i64: assignments per expert
                     const Tensor& z_sum);       // [1] f32: sum over tokens of logsumexp(logits)^2

// dlogits from the gradient of the weights, of the auxiliary loss and of the z-loss:
//   sum_{t,j} d_weights[t,j] * weight[t,j]  +  sum_e d_prob_sums[e] * prob_sums[e]  +  d_z_sum * z_sum
// Everything else is recomputed from the logits and the choice.
void routing_backward(const Context& ctx, const RoutingOptions& options,
                      const Tensor& logits,       // [T, E] f32
                      const Tensor& top_experts,  // [T, k] i32
                      const Tensor& d_weights,    // [T, k] f32
                      const Tensor& d_prob_sums,  // [E] f32, or undefined (no auxiliary loss)
                      float d_z_sum,
                      const Tensor& dlogits);  // [T, E] f32

}  // namespace xmoe
