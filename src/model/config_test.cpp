#include "model/config.h"

#include <gtest/gtest.h>

namespace xmoe {
namespace {

ModelConfig tiny() {
  ModelConfig model;
  model.layers = 3;
  model.hidden = 8;
  model.heads = 4;
  model.kv_heads = 2;
  model.ffn_hidden = 12;
  model.vocabulary = 10;
  model.seq_length = 5;
  model.norm = NormKind::rms_norm;
  model.first_k_dense = 1;
  model.moe.router.experts = 6;
  model.moe.router.top_k = 2;
  model.moe.ffn_hidden = 4;
  model.moe.shared_ffn_hidden = 3;
  model.moe.activation = Activation::swiglu;
  model.resolve();
  return model;
}

TEST(ModelConfig, ResolvesDerivedSizes) {
  ModelConfig model;
  model.hidden = 48;
  model.heads = 6;
  model.resolve();
  EXPECT_EQ(model.kv_heads, 6);
  EXPECT_EQ(model.head_dim, 8);
  EXPECT_EQ(model.ffn_hidden, 192);
  EXPECT_EQ(model.moe.ffn_hidden, 192);

  model.head_dim = 10;
  model.kv_heads = 2;
  model.resolve();
  EXPECT_EQ(model.head_dim, 10);
  EXPECT_EQ(model.kv_heads, 2);
}

TEST(ModelConfig, CountsParametersOfEveryPart) {
  // Attention: 8 * (4 + 2 * 2) * 2 + 8 * 8 = 192; norms of a layer 16. Dense: 3 * 8 * 12 = 288.
  // MoE: shared 3 * 8 * 3 = 72, router 6 * 8 = 48, one expert 3 * 8 * 4 = 96. Embedding 80, final norm 8.
  const ModelConfig model = tiny();
  const std::int64_t common = 80 + 8 + 3 * (192 + 16) + 288 + 2 * (72 + 48);
  EXPECT_EQ(model.parameter_counts().total, common + 2 * 6 * 96);
  EXPECT_EQ(model.parameter_counts().active, common + 2 * 2 * 96);

  ModelConfig other = tiny();
  other.tied_embeddings = false;
  EXPECT_EQ(other.parameter_counts().total, model.parameter_counts().total + 80);
  other = tiny();
  other.norm = NormKind::layer_norm;  // a bias beside every norm weight
  EXPECT_EQ(other.parameter_counts().total, model.parameter_counts().total + 7 * 8);
  other = tiny();
  other.moe.activation = Activation::gelu;  // two matrices of three
  EXPECT_EQ(other.parameter_counts().total, model.parameter_counts().total - 96 - 2 * (24 + 6 * 32));
}

TEST(ModelConfig, CountsUsefulFlops) {
  // Per token: weights of products once each, and half the square of attention: 8 wide, 5 long, (5 + 1) / 2
  // keys on average, scores and values.
  const ModelConfig model = tiny();
  const double weights = 80 + 3 * 192 + 288 + 2 * (72 + 48 + 2 * 96);
  const double attention = 3 * 2 * 8 * (5 + 1) / 2.0;
  EXPECT_DOUBLE_EQ(model.flops_per_token(), 6 * (weights + attention));

  ModelConfig untied = tiny();
  untied.tied_embeddings = false;  // the lookup costs nothing
  EXPECT_DOUBLE_EQ(untied.flops_per_token(), model.flops_per_token());
}

TEST(ModelConfig, PlacesMoeLayers) {
  ModelConfig model = tiny();
  model.layers = 8;
  model.first_k_dense = 2;
  model.moe_layer_freq = 3;
  std::vector<std::int64_t> moe;
  for (std::int64_t layer = 0; layer < model.layers; ++layer)
    if (model.is_moe_layer(layer)) moe.push_back(layer);
  EXPECT_EQ(moe, (std::vector<std::int64_t>{4, 7}));
  model.moe.router.experts = 0;
  EXPECT_FALSE(model.is_moe_layer(4));
}

}  // namespace
}  // namespace xmoe
