#include "train/memory_account.h"

#include <gtest/gtest.h>

#include "train/optimizer.h"
#include "train/training_step.h"

namespace xmoe {
namespace {

TrainConfig small(int world_size = 1) {
  TrainConfig c;
  c.model.layers = 3;
  c.model.hidden = 64;
  c.model.heads = 4;
  c.model.seq_length = 32;
  c.model.moe.router.experts = 8;
  c.model.moe.ffn_hidden = 96;
  c.data.vocab_size = 128;
  c.batch.micro = 4;
  c.batch.train_iterations = 1;
  c.resolve(world_size);
  return c;
}

// The paper's Small, as configs/models/small.toml has it, in bf16.
TrainConfig papers_small() {
  TrainConfig c;
  c.model.layers = 28;
  c.model.hidden = 2048;
  c.model.heads = 16;
  c.model.seq_length = 2048;
  c.model.moe.router.experts = 64;
  c.model.moe.router.top_k = 6;
  c.model.moe.ffn_hidden = 1408;
  c.data.vocab_size = 50257;
  c.compute_dtype = DType::bf16;
  c.device.kind = Device::Kind::gpu;
  c.batch.micro = 4;
  c.batch.train_iterations = 1;
  c.resolve(1);
  return c;
}

TEST(MemoryAccount, IsWhatATrainingTakes) {
  for (const DType dtype : {DType::f32, DType::bf16, DType::f16}) {
    for (const DType moments : {DType::f32, DType::bf16}) {
      TrainConfig c = small();
      c.compute_dtype = dtype;
      c.optimizer.exp_avg_sq_dtype = moments;
      if (dtype == DType::bf16) c.model.expert_gradients = moments;
      const auto alone = make_self_communicator();
      Mesh mesh(*alone, 1);
      const auto before = memory_by_tag({});
      Transformer model(c.model, dtype, mesh, 1, /*train=*/true);
      Optimizer optimizer(c.optimizer, model.parameters(), mesh);
      TrainingStep step(model, optimizer, mesh, c.batch.micro);
      step.run(1, 1e-3, [](std::int64_t, const Tensor& tokens, const Tensor& targets) {
        for (const Tensor& t : {tokens, targets}) std::fill_n(t.data<std::int32_t>(), t.numel(), 1);
      });
      const auto after = memory_by_tag({});
      const MemoryAccount account = plan_training_memory(c, 1);
      for (const MemoryTag tag :
           {MemoryTag::parameters, MemoryTag::gradients, MemoryTag::optimizer, MemoryTag::saved}) {
        const auto i = static_cast<std::size_t>(tag);
        EXPECT_EQ(account.of(tag), after[i].high_water - before[i].high_water) << name_of(tag);
      }
      EXPECT_EQ(account.of(MemoryTag::communication), 0U);
    }
  }
}

TEST(MemoryAccount, PapersSmallFitsOneH200WithMomentsInBf16) {
  constexpr std::size_t kH200 = std::size_t{139} << 30;
  TrainConfig c = papers_small();
  const double parameters = static_cast<double>(c.model.parameter_counts().total);
  EXPECT_GT(plan_training_memory(c, 1).total(), kH200);
  const MemoryAdvice advice = advise_memory(c, 1, kH200);
  EXPECT_EQ(advice.together, "--exp-avg-dtype bf16 --exp-avg-sq-dtype bf16");
  EXPECT_LE(advice.needed, kH200);
  c.optimizer.exp_avg_dtype = c.optimizer.exp_avg_sq_dtype = DType::bf16;
  const MemoryAccount account = plan_training_memory(c, 1);
  EXPECT_EQ(account.total(), advice.needed);
  const std::size_t states =
      account.of(MemoryTag::parameters) + account.of(MemoryTag::gradients) + account.of(MemoryTag::optimizer);
  EXPECT_NEAR(static_cast<double>(states) / parameters, 12.0, 0.02);
  c.model.expert_gradients = DType::bf16;
  const std::size_t narrow =
      account.of(MemoryTag::gradients) - plan_training_memory(c, 1).of(MemoryTag::gradients);
  EXPECT_NEAR(static_cast<double>(narrow) / parameters, 2.0, 0.15);  // not all are experts
}

TEST(MemoryAccount, WhatDoesNotFitIsExplained) {
  const TrainConfig c = papers_small();
  const std::string message = too_large_message(c, 1, "gpu:0", std::size_t{139} << 30);
  for (const char* part :
       {"does not fit", "gpu:0", "optimizer", "saved activations", "gradients", "--micro-batch-size 2",
        "--recompute-granularity full", "It fits with --exp-avg-dtype bf16 --exp-avg-sq-dtype bf16"})
    EXPECT_NE(message.find(part), std::string::npos) << message;
  EXPECT_NE(too_large_message(c, 1, "gpu:0", std::size_t{60} << 30).find("No combination"),
            std::string::npos);
}

// Where nothing else is left, gradients too; also where the training was in f32.
TEST(MemoryAccount, ProposesGradientsInBf16) {
  for (const DType dtype : {DType::bf16, DType::f32}) {
    TrainConfig c = papers_small();
    c.compute_dtype = DType::bf16;
    c.optimizer.exp_avg_dtype = c.optimizer.exp_avg_sq_dtype = DType::bf16;
    c.batch.micro = 1;
    c.model.recompute = {.layer = true};
    const std::size_t available = plan_training_memory(c, 1).total() - (std::size_t{10} << 30);
    c.compute_dtype = dtype;
    const MemoryAdvice advice = advise_memory(c, 1, available);
    EXPECT_EQ(advice.together,
              dtype == DType::bf16 ? "--main-grads-dtype bf16" : "--bf16 --main-grads-dtype bf16");
    EXPECT_LE(advice.needed, available);
  }
}

// On several ranks what costs nothing comes first, and a proposal is what it says.
TEST(MemoryAccount, ProposesWhatFits) {
  constexpr int kRanks = 8;
  TrainConfig c = papers_small();
  const std::size_t alone = plan_training_memory(c, kRanks).total();
  for (const std::size_t available : {alone * 9 / 10, alone / 2, alone / 4, alone / 8}) {
    const MemoryAdvice advice = advise_memory(c, kRanks, available);
    ASSERT_FALSE(advice.together.empty()) << available;
    EXPECT_LE(advice.needed, available);
  }
  EXPECT_EQ(advise_memory(c, kRanks, alone * 9 / 10).together, "--zero-stage 1");
}

TEST(MemoryAccount, ChecksTheDevice) {
  const auto alone = make_self_communicator();
  EXPECT_GT(check_memory(small(), {}, *alone).total(), 0U);
  TrainConfig c = papers_small();
  c.device.kind = Device::Kind::cpu;
  c.model.layers = 700;
  EXPECT_THROW(check_memory(c, {}, *alone), Error);
  EXPECT_NE(peak_memory_line({}, *alone).find("together"), std::string::npos);
}

}  // namespace
}  // namespace xmoe
