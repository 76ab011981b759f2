#include "model/config.h"

namespace xmoe {

namespace {

// Weights of one gated or plain feed-forward block: two or three matrices of hidden x width.
std::int64_t ffn_weights(Activation activation, std::int64_t hidden, std::int64_t width) {
  const std::int64_t matrices = activation == Activation::swiglu ? 3 : 2;
  return matrices * hidden * width;
}

}  // namespace

void ModelConfig::resolve() {
  if (kv_heads == 0) kv_heads = heads;
  if (head_dim == 0 && heads > 0) head_dim = hidden / heads;
  if (ffn_hidden == 0) ffn_hidden = 4 * hidden;
  if (moe.ffn_hidden == 0) moe.ffn_hidden = ffn_hidden;
}

bool ModelConfig::is_moe_layer(std::int64_t layer) const {
  if (moe.router.experts == 0 || layer < first_k_dense) return false;
  return (layer - first_k_dense + 1) % moe_layer_freq == 0;
}

ModelConfig::Counts ModelConfig::parameter_counts() const {
  const std::int64_t norm_weights = norm == NormKind::layer_norm ? 2 * hidden : hidden;
  const std::int64_t attention = hidden * (heads + 2 * kv_heads) * head_dim + heads * head_dim * hidden;
  const std::int64_t expert = ffn_weights(moe.activation, hidden, moe.ffn_hidden);
  const std::int64_t shared = ffn_weights(moe.activation, hidden, moe.shared_ffn_hidden);
  const std::int64_t router = moe.router.experts * hidden;

  Counts counts;
  counts.total =
      vocabulary * hidden * (tied_embeddings ? 1 : 2) + norm_weights;  // embedding, output, final norm
  counts.active = counts.total;
  for (std::int64_t layer = 0; layer < layers; ++layer) {
    std::int64_t common = 2 * norm_weights + attention;
    if (is_moe_layer(layer)) {
      common += shared + router;
      counts.total += moe.router.experts * expert;
      counts.active += moe.router.top_k * expert;
    } else {
      common += ffn_weights(moe.activation, hidden, ffn_hidden);
    }
    counts.total += common;
    counts.active += common;
  }
  return counts;
}

double ModelConfig::flops_per_token() const {
  // Matrix products only: 2 FLOPs per weight forward, 4 backward (gradients of input and of weight).
  constexpr double kPerWeight = 6.0;
  const auto h = static_cast<double>(hidden);
  // The embedding is a lookup; the output projection, tied or not, is a product.
  double weights = static_cast<double>(vocabulary) * h;
  for (std::int64_t layer = 0; layer < layers; ++layer) {
    std::int64_t used = hidden * (heads + 2 * kv_heads) * head_dim + heads * head_dim * hidden;
    if (is_moe_layer(layer)) {
      used += moe.router.experts * hidden;
      used += moe.router.top_k * ffn_weights(moe.activation, hidden, moe.ffn_hidden);
      used += ffn_weights(moe.activation, hidden, moe.shared_ffn_hidden);
    } else {
      used += ffn_weights(moe.activation, hidden, ffn_hidden);
    }
    weights += static_cast<double>(used);
  }
  // Scores and values: two products of S x head_dim per token and head, half of the square under the causal
  // mask.
  const double attention =
      2.0 * static_cast<double>(heads * head_dim) * static_cast<double>(seq_length + 1) / 2.0;
  return kPerWeight * (weights + static_cast<double>(layers) * attention);
}

}  // namespace xmoe
