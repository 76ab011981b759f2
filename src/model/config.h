// What defines a model: a pre-norm decoder with rotary embedding. Flag names in trailing comments.
#pragma once

#include <cstdint>

#include "moe/config.h"
#include "ops/norm/norm.h"

namespace xmoe {

// What backward computes again instead of keeping it. Never the router's choice: its logits and the routing
// stay.
struct RecomputeConfig {
  bool attention = false;  // --recompute-modules attention: queries, keys, values, output
  bool mlp = false;        // mlp: pre-activations of dense layers and shared experts
  bool moe = false;        // moe: rows of other ranks and pre-activations of experts
  bool layer = false;      // --recompute-granularity full: all of a layer but its input
  // --recompute-modules was given, if only with what is never kept: "selective" adds nothing to it.
  bool listed = false;

  bool any() const { return attention || mlp || moe || layer; }
};

struct ModelConfig {
  std::int64_t layers = 0;      // --num-layers
  std::int64_t hidden = 0;      // --hidden-size: H
  std::int64_t ffn_hidden = 0;  // --ffn-hidden-size: of dense layers
  std::int64_t heads = 0;       // --num-attention-heads
  std::int64_t kv_heads = 0;    // --num-query-groups (with --group-query-attention); 0: as many as heads
  std::int64_t head_dim = 0;    // --kv-channels; 0: hidden / heads
  std::int64_t vocabulary = 0;  // rows of the embedding: the tokenizer's size, padded
  std::int64_t seq_length = 0;  // --seq-length
  NormKind norm = NormKind::layer_norm;  // --normalization
  double norm_epsilon = 1e-5;            // --norm-epsilon
  double rotary_base = 10000.0;          // --rotary-base
  bool tied_embeddings = true;           // --untie-embeddings-and-output-weights clears it
  std::int64_t first_k_dense = 0;        // --moe-first-k-dense: layers before the first MoE layer
  std::int64_t moe_layer_freq =
      1;                   // --moe-layer-freq: of the others, every n-th is an MoE layer (the n-th first)
  double init_std = 0.02;  // --init-method-std
  MoeConfig moe;           // router.experts == 0: a dense model
  // --main-grads-dtype: in which the gradients of the experts' weights are summed, f32 or the weights' dtype
  DType expert_gradients = DType::f32;
  RecomputeConfig recompute;

  // Zero fields that mean "derived" are filled in here; called once after parsing.
  void resolve();
  bool is_moe_layer(std::int64_t layer) const;

  struct Counts {
    std::int64_t total = 0;
    std::int64_t active = 0;  // parameters that one token passes through
  };
  Counts parameter_counts() const;
  // Useful floating-point operations of forward and backward per token: 2 per weight and direction used (6 in
  // all), active experts only, causal attention counted as half of the square. Recomputation and dropped rows
  // are not useful.
  double flops_per_token() const;
};

}  // namespace xmoe
