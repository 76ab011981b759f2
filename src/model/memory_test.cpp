#include "model/memory.h"

#include <gtest/gtest.h>

#include <vector>

#include "comm/mesh.h"
#include "model/transformer.h"

namespace xmoe {
namespace {

ModelConfig model() {
  ModelConfig c;
  c.layers = 4;
  c.hidden = 64;
  c.ffn_hidden = 96;
  c.heads = 4;
  c.kv_heads = 2;
  c.vocabulary = 128;
  c.seq_length = 24;
  c.first_k_dense = 1;
  c.moe_layer_freq = 2;
  c.moe.router.experts = 8;
  c.moe.router.top_k = 3;
  c.moe.router.expert_bias = true;
  c.moe.ffn_hidden = 40;
  c.moe.shared_ffn_hidden = 56;
  c.moe.activation = Activation::swiglu;
  c.resolve();
  return c;
}

void check(const ModelConfig& config, DType dtype) {
  constexpr std::int64_t kBatch = 3;
  const auto alone = make_self_communicator();
  Mesh mesh(*alone, 1);
  Transformer t(config, dtype, mesh, 1, /*train=*/true);
  Arena host({}, MemoryTag::workspace);
  const Tensor tokens = host.zeros(DType::i32, {kBatch * config.seq_length});
  t.forward_backward(tokens, tokens, kBatch, 1.0);
  const ModelMemory plan = plan_memory(config, dtype, {}, kBatch, Device::Kind::cpu);
  EXPECT_EQ(t.high_water(MemoryTag::parameters), plan.parameters);
  EXPECT_EQ(t.high_water(MemoryTag::gradients), plan.gradients);
  // One chunk of exactly that.
  EXPECT_EQ(t.arenas()[0]->reserved(), plan.parameters);
  EXPECT_EQ(t.high_water(MemoryTag::saved), plan.saved);
  // The scratch of the CPU's threads is not counted: they are small beside a model of a size that matters.
  constexpr std::size_t kOfThreads = std::size_t{4} << 20;
  EXPECT_LE(t.high_water(MemoryTag::workspace), plan.workspace + kOfThreads);
}

TEST(ModelMemory, IsWhatAModelTakes) {
  for (const DType dtype : {DType::f32, DType::bf16, DType::f16}) {
    check(model(), dtype);
    ModelConfig untied = model();
    untied.tied_embeddings = false;
    untied.norm = NormKind::rms_norm;
    untied.moe.router.expert_bias = false;
    untied.moe.shared_ffn_hidden = 0;
    untied.moe.activation = Activation::gelu;
    check(untied, dtype);
  }
}

TEST(ModelMemory, KnowsWhatIsComputedAgain) {
  std::vector<RecomputeConfig> kinds(4);
  kinds[0].attention = true;
  kinds[1].mlp = true;
  kinds[2].moe = true;
  kinds[3].layer = true;
  const std::size_t all = plan_memory(model(), DType::bf16, {}, 3, Device::Kind::cpu).saved;
  for (const RecomputeConfig& recompute : kinds) {
    ModelConfig config = model();
    config.recompute = recompute;
    check(config, DType::bf16);
    EXPECT_LT(plan_memory(config, DType::bf16, {}, 3, Device::Kind::cpu).saved, all);
  }
}

TEST(ModelMemory, LayoutsCutIt) {
  const auto plan = [](const ParallelLayout& layout) {
    return plan_memory(model(), DType::bf16, placement_of(layout, 4), 2, Device::Kind::gpu);
  };
  const ModelMemory one = plan({});
  const ModelMemory experts = plan({.expert = 4});
  EXPECT_LT(experts.parameters, one.parameters);
  EXPECT_GT(experts.saved, one.saved);  // rows of other ranks are kept
  const ModelMemory tensor = plan({.tensor = 2});
  EXPECT_LT(tensor.parameters, one.parameters);
  EXPECT_LT(tensor.saved, one.saved);
}

// The same sizes as a rank of a real mesh has, padding of the flat buffers included.
TEST(ModelMemory, PlacementsAgree) {
  const auto alone = make_self_communicator();
  const Mesh mesh(*alone, 1);
  const Placement a = placement_of(mesh);
  const Placement b = placement_of(ParallelLayout{}, 1);
  EXPECT_EQ(a.replicas, b.replicas);
  EXPECT_EQ(a.expert_size, b.expert_size);
}

}  // namespace
}  // namespace xmoe
