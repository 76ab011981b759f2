// The whole model: embedding, pre-norm decoder layers, final norm, output projection with its loss. Forward
// and backward are explicit.
//
//   x_0 = embedding(tokens)
//   m_l = x_l + attention(norm(x_l))
//   x_{l+1} = m_l + mlp(norm(m_l))
//   loss(norm(x_L))
//
// mlp is dense in the first layers and an MoE in the others (ModelConfig::is_moe_layer). Kept for backward
// per layer: the residual streams x_l and m_l, statistics of the norms, what the attention keeps and what the
// MoE keeps; outputs of norms are computed again, and so is what ModelConfig::recompute names.
//
// T = batch * S tokens of this rank's micro-batch, H hidden size, V rows of the embedding, E experts. The
// ranks of a tensor-parallel group of G are given the same tokens, and each holds n = T / G rows of the
// streams between blocks (sequence parallelism): all that works row by row, norms and MoE blocks, works on
// those alone.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "comm/mesh.h"
#include "model/attention_block.h"
#include "model/config.h"
#include "model/dense_mlp.h"
#include "model/parameter_set.h"
#include "model/token_projections.h"
#include "moe/layer.h"

namespace xmoe {

// What one micro-batch yields, the same on every rank but where said otherwise.
struct MicroBatchResult {
  double lm_loss = 0.0;          // mean over the tokens of all ranks
  double aux_loss = 0.0;         // with its coefficient; sum over layers
  double z_loss = 0.0;           // likewise
  std::int64_t dropped = 0;      // assignments dropped of the n rows of this rank
  std::int64_t assignments = 0;  // assignments made for them; sums over the world count each once
};

// Keys and values of the positions seen so far, for generation; of this rank's heads.
struct KeyValueCache {
  std::vector<Tensor> keys, values;  // per layer [batch, S, kv_heads * D]
  std::int64_t length = 0;           // positions filled; at most S
};

class Transformer {
 public:
  // heads, kv_heads, vocabulary, ffn_hidden and seq_length are multiples of the tensor-parallel size; under
  // TED also the experts' FFN size. Weights in `dtype` (f32, bf16 or f16; routers in f32). Without a seed
  // they are NaN until a checkpoint is loaded, which fills them all (load_checkpoint()). Without `train`
  // there are no gradients and no backward. All of it lies and runs on `device`; what callers hand in and get
  // back (tokens, targets, losses, logits, counts) is in host memory.
  Transformer(const ModelConfig& config, DType dtype, Mesh& mesh, std::optional<std::uint64_t> seed,
              bool train, const Device& device = {});

  // Forward and backward of one micro-batch, of as many sequences on all ranks; gradients add up since
  // clear_gradients(). The loss that is differentiated is
  //   loss_scale * (mean cross-entropy + auxiliary losses), means over the tokens of all ranks.
  // `completed`, if given, is told each stage (ParameterSpec) whose gradients backward has completed.
  MicroBatchResult forward_backward(
      const Tensor& tokens,   // [T] i32
      const Tensor& targets,  // [T] i32; kIgnoredTarget where nothing is predicted
      std::int64_t batch, double loss_scale, const std::function<void(int stage)>& completed = {});

  // Losses only, the same on all ranks of a tensor-parallel group; no assignment is dropped, whatever the
  // capacity in training. Every rank of an expert-parallel and of a tensor-parallel group must call it.
  void evaluate(const Tensor& tokens, const Tensor& targets, std::int64_t batch,
                const Tensor& losses);  // [T] f32
  void logits(const Tensor& tokens, std::int64_t batch,
              const Tensor& out);  // [T, V] f32

  KeyValueCache make_cache(Arena& arena, std::int64_t batch) const;
  // One token per sequence at position cache.length, which is advanced. The cache is on the model's device.
  void decode(const Tensor& tokens,  // [batch] i32
              KeyValueCache& cache,
              const Tensor& out);  // [batch, V] f32

  // Assignments per expert of the MoE layers, summed over ranks and over the micro-batches since
  // clear_counts().
  const Tensor& expert_counts() const { return counts_total_; }  // [MoE layers, E] i64
  void clear_counts();
  // Auxiliary-loss-free balancing: the bias of an expert moves by `rate` towards the mean load (Wang et al.
  // 2024).
  void update_expert_bias();

  // Begins the sums of another step. Gradients of experts are not filled with zeros, since they are most of
  // the bytes: the next forward_backward writes them, and until then they hold those of the step before.
  void clear_gradients();
  // After forward_backward: the first place, in order of computation, that holds a value that is not finite
  // on this rank; nothing if there is none. Stages count alike on all ranks.
  struct Place {
    std::int64_t stage = 0;
    std::string name;
  };
  std::optional<Place> locate_non_finite() const;

  const ModelConfig& config() const { return config_; }
  DType dtype() const { return dtype_; }
  ParameterSet& parameters() { return parameters_; }
  const ParameterSet& parameters() const { return parameters_; }
  Context context() { return {workspace_}; }
  // Room for a micro-batch, asked for at once: arenas that grow would hold more than they need for a step.
  void reserve(std::size_t saved, std::size_t workspace) {
    saved_.reserve(saved);
    workspace_.reserve(workspace);
  }
  // All arenas, for accounts of memory.
  std::vector<const Arena*> arenas() const { return {&values_, &gradients_, &saved_, &workspace_}; }
  std::size_t high_water(MemoryTag tag) const;  // most bytes in use at once
  // Bytes kept for the MoE block of a layer by the last forward_backward: what it keeps itself (MoeSaved),
  // its rows of the residual stream and the statistics of its norm.
  std::size_t moe_saved_bytes(std::int64_t layer) const;

  struct Layer {
    Weight attention_norm, attention_norm_bias, mlp_norm, mlp_norm_bias;
    std::optional<AttentionBlock> attention;
    std::optional<DenseMlp> mlp;
    std::unique_ptr<MoeLayer> moe;
    std::int64_t moe_index = -1;
  };
  const std::vector<Layer>& layers() const { return layers_; }
  const Weight& embedding() const { return embedding_; }
  const Weight& output() const { return config_.tied_embeddings ? embedding_ : output_; }
  const Weight& final_norm() const { return final_norm_; }
  const Weight& final_norm_bias() const { return final_norm_bias_; }
  const Tensor& rope_table() const { return rope_table_; }

 private:
  struct LayerSaved {
    Tensor x;             // [n, H] input of the layer
    Tensor middle;        // [n, H] after attention
    Tensor norm1, norm2;  // [n, 2] f32
    AttentionSaved attention;
    Tensor mlp_h;  // dense: [T, F']
    MoeSaved moe;

    // All but the layer's input and what the MoE keeps.
    void forget() {
      middle = norm1 = norm2 = mlp_h = {};
      attention = {};
    }
  };

  void build_layers(std::optional<std::uint64_t> seed, bool train);
  AttentionShape attention_shape(std::int64_t batch) const;
  RouterSums sums_of(std::int64_t moe_index) const;
  // Runs all layers and returns the output of the last [n, H]; with `keep` all that backward needs stays in
  // kept_.
  Tensor forward_layers(const Tensor& tokens, std::int64_t batch, bool keep);
  // From kept.x to kept.middle and the input of the mlp, with what `arena` and `attention_arena` keep of it.
  // `branch` [n, H] is scratch.
  void forward_attention(const Layer& layer, std::int64_t batch, Arena& arena, Arena& attention_arena,
                         const Tensor& branch, LayerSaved& kept,
                         const Tensor& normed);  // [n, H]: norm(kept.middle)
  void forward_mlp(const Layer& layer, Arena& arena, const Tensor& x, const Tensor& y, LayerSaved& kept,
                   MoePass pass);
  Tensor final_hidden(const Tensor& tokens,
                      std::int64_t batch);  // [n, H] in the workspace, after the final norm
  // Final norm and loss: dx [n, H] is the gradient of `last`.
  double forward_backward_loss(const Tensor& last, const Tensor& targets, double loss_scale,
                               const Tensor& dx);  // `targets` on the host
  void backward_layer(const Layer& layer, std::int64_t batch, LayerSaved& kept, double loss_scale,
                      const Tensor& dx);
  // Sums over all ranks, the auxiliary losses of all layers, and their gradients in router_gradients_.
  void reduce_router_sums(std::int64_t tokens, double loss_scale, MicroBatchResult& result);
  RouterSumGradients router_gradients(const Layer& layer, double loss_scale) const;

  ModelConfig config_;
  DType dtype_;
  Mesh& mesh_;
  Arena values_, gradients_, saved_, workspace_;
  Arena host_;  // counts and sums that the host works on
  ParameterSet parameters_;
  std::vector<Layer> layers_;
  Weight embedding_, output_, final_norm_, final_norm_bias_;
  std::optional<TokenProjections> projections_;
  Tensor rope_table_;                                // [S, D] f32
  Tensor router_sums_;                               // [MoE layers, E + 1] f32: prob_sums, z_sum
  Tensor router_counts_;                             // [MoE layers, E] i64
  Tensor router_gradients_;                          // [MoE layers, E] f32: of prob_sums
  Tensor host_sums_, host_counts_, host_gradients_;  // the same on the host
  Tensor counts_total_;                              // [MoE layers, E] i64, on the host
  std::vector<Tensor> router_biases_;                // [E] f32 each; empty without expert bias
  std::int64_t router_tokens_ = 0;                   // tokens behind the sums, of all ranks
  std::vector<LayerSaved> kept_;
  Accumulation experts_accumulation_ = Accumulation::write;  // of the next forward_backward
  Tensor last_;  // [n, H] output of the last layer, of the last forward_backward
};

}  // namespace xmoe
