// What an iteration reports is of all ranks and the same on every one, however the MoE blocks are cut.
#include <gtest/gtest.h>

#include "base/rng.h"
#include "comm/mesh.h"
#include "distributed/support.h"
#include "model/transformer.h"
#include "train/optimizer.h"
#include "train/training_step.h"

namespace xmoe {
namespace {

using distributed::world;

constexpr std::int64_t kMicro = 2;
constexpr std::int64_t kMicroBatches = 2;
constexpr std::uint64_t kSeed = 5;

ModelConfig model_that_drops() {
  ModelConfig c;
  c.layers = 3;
  c.hidden = 16;
  c.heads = 4;
  c.vocabulary = 64;
  c.seq_length = 12;
  c.first_k_dense = 1;
  c.moe.router.experts = 8;
  c.moe.router.top_k = 3;
  c.moe.ffn_hidden = 8;
  c.moe.capacity_factor = 0.75;
  c.moe.min_capacity = 1;
  c.resolve();
  return c;
}

void fill(const Mesh& mesh, std::int64_t index, const Tensor& tokens, const Tensor& targets) {
  const Rng rng(11, "tokens");
  const std::int64_t first = (index * mesh.dp().size() + mesh.dp().rank()) * tokens.numel();
  for (std::int64_t i = 0; i < tokens.numel(); ++i) {
    tokens.data<std::int32_t>()[i] =
        static_cast<std::int32_t>(rng.below(static_cast<std::uint64_t>(first + i), 64));
    targets.data<std::int32_t>()[i] = (tokens.data<std::int32_t>()[i] * 5 + 3) % 64;
  }
}

// A value that every rank holds alike, or a failure.
void expect_equal_on_all_ranks(double value, const char* name) {
  EXPECT_EQ(world().all_reduce(value, ReduceOp::min), value) << name;
  EXPECT_EQ(world().all_reduce(value, ReduceOp::max), value) << name;
}

StepResult first_step(Mesh& mesh) {
  Transformer model(model_that_drops(), DType::f32, mesh, kSeed, true);
  Optimizer optimizer({}, model.parameters(), mesh);
  TrainingStep step(model, optimizer, mesh, kMicro);
  return step.run(kMicroBatches, 1e-3, [&](std::int64_t index, const Tensor& tokens, const Tensor& targets) {
    fill(mesh, index, tokens, targets);
  });
}

struct Dropped {
  std::int64_t dropped = 0;
  std::int64_t assignments = 0;
};

// The sum of what each rank says of its own rows.
Dropped sum_over_the_world(Mesh& mesh) {
  Transformer model(model_that_drops(), DType::f32, mesh, kSeed, true);
  Arena memory({}, MemoryTag::workspace);
  const Tensor tokens = memory.tensor(DType::i32, {kMicro * model.config().seq_length});
  const Tensor targets = memory.tensor(DType::i32, tokens.shape());
  Dropped sum;
  for (std::int64_t index = 0; index < kMicroBatches; ++index) {
    fill(mesh, index, tokens, targets);
    const MicroBatchResult r = model.forward_backward(tokens, targets, kMicro, 1.0);
    sum.dropped += world().all_reduce(r.dropped, ReduceOp::sum);
    sum.assignments += world().all_reduce(r.assignments, ReduceOp::sum);
  }
  return sum;
}

TEST(StepResults, AreOfAllRanksAndEqualOnThem) {
  if (world().size() < 2) GTEST_SKIP() << "needs tensor-parallel ranks";
  for (const bool expert_tensor : {false, true}) {
    SCOPED_TRACE(expert_tensor ? "TED" : "SSMB");
    Mesh mesh(world(), ParallelLayout{.tensor = 2, .expert_tensor = expert_tensor});
    const StepResult r = first_step(mesh);
    const Dropped sum = sum_over_the_world(mesh);
    const ModelConfig c = model_that_drops();
    const std::int64_t tokens = mesh.dp().size() * kMicroBatches * kMicro * c.seq_length;
    ASSERT_EQ(sum.assignments, tokens * c.moe.router.top_k * 2);  // of two MoE layers
    ASSERT_GT(sum.dropped, 0);
    EXPECT_EQ(r.dropped_fraction, static_cast<double>(sum.dropped) / static_cast<double>(sum.assignments));
    // 2 operations per weight in forward and 4 in backward; GELU: two matrices of H x I.
    const double of_row = 6.0 * static_cast<double>(2 * c.hidden * c.moe.ffn_hidden);
    EXPECT_EQ(r.useful_flops,
              c.flops_per_token() * static_cast<double>(tokens) - of_row * static_cast<double>(sum.dropped));
    expect_equal_on_all_ranks(r.lm_loss, "lm_loss");
    expect_equal_on_all_ranks(r.aux_loss, "aux_loss");
    expect_equal_on_all_ranks(r.z_loss, "z_loss");
    expect_equal_on_all_ranks(r.gradient_norm, "gradient_norm");
    expect_equal_on_all_ranks(r.dropped_fraction, "dropped_fraction");
    expect_equal_on_all_ranks(r.expert_load_max_over_mean, "expert_load_max_over_mean");
    expect_equal_on_all_ranks(r.useful_flops, "useful_flops");
  }
}

}  // namespace
}  // namespace xmoe
