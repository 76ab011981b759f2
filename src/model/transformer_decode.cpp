// Generation: one position at a time against cached keys and values.
#include "base/profile.h"
#include "model/transformer.h"
#include "ops/elementwise/elementwise.h"
#include "ops/norm/norm.h"

namespace xmoe {

KeyValueCache Transformer::make_cache(Arena& arena, std::int64_t batch) const {
  KeyValueCache cache;
  const Shape shape = {batch, config_.seq_length, attention_shape(batch).kv_heads * config_.head_dim};
  for (std::size_t l = 0; l < layers_.size(); ++l) {
    cache.keys.push_back(arena.tensor(dtype_, shape));
    cache.values.push_back(arena.tensor(dtype_, shape));
  }
  return cache;
}

void Transformer::decode(const Tensor& tokens, KeyValueCache& cache, const Tensor& out) {
  XMOE_CHECK(cache.length < config_.seq_length, "the cache of {} positions is full", config_.seq_length);
  const Context ctx = context();
  const std::int64_t batch = tokens.dim(0);
  const auto epsilon = static_cast<float>(config_.norm_epsilon);
  const ArenaScope scope(workspace_);
  const ArenaScope saved_scope(saved_);
  const Tensor x = workspace_.tensor(dtype_, {batch, config_.hidden});
  const Tensor normed = workspace_.tensor(dtype_, x.shape());
  const Tensor branch = workspace_.tensor(dtype_, x.shape());
  const Tensor stats = workspace_.tensor(DType::f32, {batch, 2});
  projections_->embed_whole(ctx, tokens, x);
  for (std::size_t l = 0; l < layers_.size(); ++l) {
    const profile::LayerScope layer_scope(static_cast<std::int64_t>(l));
    const Layer& layer = layers_[l];
    norm_forward(ctx, config_.norm, epsilon, x, layer.attention_norm.value, layer.attention_norm_bias.value,
                 normed, stats);
    layer.attention->decode(ctx, attention_shape(batch), rope_table_, cache.length, normed, cache.keys[l],
                            cache.values[l], branch);
    add(ctx, x, branch, x);
    norm_forward(ctx, config_.norm, epsilon, x, layer.mlp_norm.value, layer.mlp_norm_bias.value, normed,
                 stats);
    if (layer.moe) {
      // The ranks of a tensor-parallel group have the same rows, and each routes them for itself.
      MoeSaved kept;
      layer.moe->forward(ctx, saved_, normed, branch, sums_of(layer.moe_index), kept, MoePass::inference);
    } else {
      layer.mlp->decode(ctx, normed, branch);
    }
    add(ctx, x, branch, x);
  }
  norm_forward(ctx, config_.norm, epsilon, x, final_norm_.value, final_norm_bias_.value, normed, stats);
  const Tensor logits = workspace_.tensor(DType::f32, out.shape());
  projections_->logits_whole(ctx, normed, logits);
  copy_across(logits, out);
  ++cache.length;
}

}  // namespace xmoe
