// One MoE layer: router, PFT, dispatch, experts, combine, and the shared expert beside them.
//
//   y = sum_{e in top-k(x)} w_e expert_e(x) + shared(x)
//
// Over a tensor-parallel group of G ranks it works on the rows that a rank holds between blocks, 1 / G of
// those of the micro-batch, and its ep group spans tensor and data parallel ranks (sequence-sharded MoE
// blocks, X-MoE, SC'25, section 4.3). With expert tensor parallelism instead (TED, Singh et al. 2023) experts
// are cut over the tp group: the router still sees its own rows, then choice and rows are gathered, each
// rank's experts compute 1 / G of their inner width for all rows, and the partial sums are scattered.
//
// T tokens here, H hidden size, E experts, k chosen per token, I their FFN size on this rank (I'
// pre-activations: I, or 2 I for swiglu), Is that of the shared expert.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "comm/mesh.h"
#include "moe/chunks.h"
#include "moe/config.h"
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
  Tensor logits;                   // [T, E] f32
  Tensor top_experts;              // [T, k] i32
  std::vector<TokenChunk> chunks;  // MoeConfig::overlap_chunks; under TED of the rows of the whole tp group
  Tensor shared_h;                 // [T, Is'], or undefined
  // Assignments dropped; under TED an equal share of those of the tp group, whose sum is the group's.
  std::int64_t dropped = 0;

  // Bytes of the above that are memory of their own; docs/pft.md gives the formula.
  std::size_t bytes() const;
};

// What backward computes again instead of keeping it; never the router's choice.
struct MoeRecompute {
  bool experts = false;  // rows of other ranks, and pre-activations of the experts
  bool shared = false;   // pre-activations of the shared expert
};

// Only training drops assignments for capacity. What is evaluated or generated must depend neither on the
// tokens that happen to share a micro-batch nor on how they are cut over ranks.
enum class MoePass : std::uint8_t { training, inference };

class MoeLayer {
 public:
  // Keeps references to the mesh's groups. Throws Error on all ranks alike where config asks for chunks of a
  // padded dispatcher, whose buffers are those of all tokens.
  MoeLayer(const MoeConfig& config, const MoeWeights& weights, const Mesh& mesh,
           const MoeRecompute& recompute = {});

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
                const Tensor& dx,            // [T, H]; written
                Accumulation accumulation);  // of the gradients of the experts' weights; others are added to

  const MoeConfig& config() const { return config_; }

 private:
  RoutingOptions routing_options() const;
  // Logits, choice and sums of own rows; plans of all chunks.
  void route(const Context& ctx, Arena& saved, const Tensor& x, const RouterSums& sums, MoeSaved& kept,
             MoePass pass) const;
  void forward_shared(const Context& ctx, Arena& saved, const Tensor& x, const Tensor& y,
                      MoeSaved& kept) const;
  void backward_experts(const Context& ctx, const Tensor& dy, const Tensor& x, MoeSaved& kept,
                        const Tensor& dx, Accumulation accumulation, const Tensor& d_top_weights) const;
  void backward_shared(const Context& ctx, const Tensor& dy, const Tensor& x, const MoeSaved& kept,
                       const Tensor& dx) const;
  void backward_router(const Context& ctx, const Tensor& x, const MoeSaved& kept,
                       const RouterSumGradients& gradients, const Tensor& d_top_weights,
                       const Tensor& dx) const;
  // Rows of the whole tp group, and of the sums formed there, under TED; else own rows.
  Tensor gathered(const Context& ctx, const Tensor& own) const;
  Tensor partial(const Context& ctx, const Tensor& own) const;
  void scatter(const Tensor& partial, const Tensor& own) const;
  Dispatcher& dispatcher(MoePass pass) const {
    return pass == MoePass::training ? *dispatcher_ : *inference_dispatcher_;
  }

  MoeConfig config_;
  MoeWeights weights_;
  MoeRecompute recompute_;
  Communicator* expert_tp_;  // over which experts are cut; null without TED
  std::unique_ptr<Dispatcher> dispatcher_;
  std::unique_ptr<Dispatcher> inference_dispatcher_;  // a padded one cannot do without dropping
};

}  // namespace xmoe
