// What defines the MoE layers of a model. Flag names in trailing comments.
#pragma once

#include <cstdint>
#include <optional>

#include "ops/grouped_mlp/grouped_mlp.h"
#include "ops/routing/routing.h"

namespace xmoe {

// automatic: flat or rbd, whichever is faster between the ranks at hand; settled before layers are made.
enum class DispatcherKind : std::uint8_t { flat, padded, rbd, automatic };

struct RouterConfig {
  std::int64_t experts = 0;                               // --num-experts
  std::int64_t top_k = 2;                                 // --moe-router-topk
  ScoreFunction score_function = ScoreFunction::softmax;  // --moe-router-score-function
  // Softmax over all experts before the selection, or over the selected ones after it.
  bool pre_softmax = false;  // --moe-router-pre-softmax
  // Selected probabilities are divided by their sum.
  bool normalize_topk = false;   // --moe-router-norm-topk-prob
  double scaling_factor = 1.0;   // --moe-router-topk-scaling-factor
  std::int64_t groups = 1;       // --moe-router-num-groups
  std::int64_t topk_groups = 1;  // --moe-router-group-topk: experts are chosen only from the best groups
  bool expert_bias = false;  // --moe-router-enable-expert-bias: selection by score + bias, weights by score
  double bias_update_rate = 1e-3;  // --moe-router-bias-update-rate
  double aux_loss_coeff = 0.0;     // --moe-aux-loss-coeff
  double z_loss_coeff = 0.0;       // --moe-z-loss-coeff
};

struct MoeConfig {
  RouterConfig router;
  std::int64_t ffn_hidden = 0;  // --moe-ffn-hidden-size: I, of one expert
  // Of all shared experts together; 0: none.
  std::int64_t shared_ffn_hidden = 0;        // --moe-shared-expert-intermediate-size
  Activation activation = Activation::gelu;  // --swiglu
  std::optional<double> capacity_factor;     // --moe-expert-capacity-factor; unset: nothing is dropped
  std::int64_t min_capacity = 4;             // --moe-min-capacity
  DispatcherKind dispatcher = DispatcherKind::flat;  // --moe-dispatcher
  // Batches into which a layer cuts its tokens, so that the rows of one travel while another is computed.
  std::int64_t overlap_chunks = 1;  // --moe-overlap-chunks
};

}  // namespace xmoe
