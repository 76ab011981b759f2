// One MoE layer: router, PFT, dispatch, experts, combine, and the shared expert beside them.
//
//   y = sum_{e in top-k(x)} w_e expert_e(x) + shared(x)
//
// T tokens, H hidden size, E experts, k chosen per token, I their FFN size (I' pre-activations: I, or 2 I for
// swiglu), Is that of the shared expert.
#pragma once

#include <cstdint>
#include <memory>

#include "comm/communicator.h"
#include "moe/config.h"
#include "moe/dispatch/dispatcher.h"
#include "moe/weight.h"

namespace xmoe {

struct MoeWeights {
  Weight router;       // [E, H] f32
  Tensor router_bias;  // [E] f32, or undefined; not trained by gradient
  Weight experts_w1;   // [E / ep, I', H]
  Weight experts_w2;   // [E / ep, H, I]
  Weight shared_w1;    // [1, Is', H], or undefined
  Weight shared_w2;    // [1, H, Is]
};

// Sums over this rank's tokens from which the auxiliary losses are formed, once they are summed over all
// ranks of the micro-batch.
struct RouterSums {
  Tensor prob_sums;  // [E] f32
  Tensor counts;     // [E] i64: assignments before dropping
  Tensor z_sum;      // [1] f32
};

// Gradients of the auxiliary losses with respect to the sums above.
struct RouterSumGradients {
  Tensor d_prob_sums;  // [E] f32, or undefined: no auxiliary loss
  float d_z_sum = 0.0F;
};

// What a layer keeps between forward and backward, besides its input (which the model recomputes from the
// residual stream).
struct MoeSaved {
  Tensor logits;       // [T, E] f32
  Tensor top_experts;  // [T, k] i32
  DispatchPlan plan;
  RowPair x;        // rows of the experts' input; only `remote` (or a padded buffer) is memory of its own
  Tensor h;         // [R, I']
  Tensor shared_h;  // [T, Is'], or undefined
  std::int64_t dropped = 0;

  // Bytes of the above that are memory of their own; docs/pft.md gives the formula.
  std::size_t bytes() const;
};

// Only training drops assignments for capacity. What is evaluated or generated must depend neither on the
// tokens that happen to share a micro-batch nor on how they are cut over ranks.
enum class MoePass : std::uint8_t { training, inference };

class MoeLayer {
 public:
  MoeLayer(const MoeConfig& config, const MoeWeights& weights, Communicator& ep);

  // Arrays kept for backward come from `saved`, which is not ctx.workspace. After a pass of inference nothing
  // is dropped and no backward may follow.
  void forward(const Context& ctx, Arena& saved,
               const Tensor& x,         // [T, H]
               const Tensor& y,         // [T, H]
               const RouterSums& sums,  // written
               MoeSaved& kept, MoePass pass = MoePass::training);

  void backward(const Context& ctx,
                const Tensor& dy,  // [T, H]
                const Tensor& x,   // [T, H], as in forward
                MoeSaved& kept, const RouterSumGradients& router_gradients,
                const Tensor& dx);  // [T, H]; written

  const MoeConfig& config() const { return config_; }

 private:
  RoutingOptions routing_options() const;

  MoeConfig config_;
  MoeWeights weights_;
  std::unique_ptr<Dispatcher> dispatcher_;
  std::unique_ptr<Dispatcher> inference_dispatcher_;  // a padded one cannot do without dropping
};

}  // namespace xmoe
