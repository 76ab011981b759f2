// Training in f16 with a scaled loss: it goes the way of f32, an overflow on one rank is one on all, and a
// run that stops between two changes of the scale goes on with the same bits.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "base/rng.h"
#include "distributed/support.h"
#include "model/transformer.h"
#include "ops/cross_entropy/cross_entropy.h"
#include "support/compare.h"
#include "train/checkpointing.h"
#include "train/optimizer.h"
#include "train/training_step.h"

namespace xmoe {
namespace {

using distributed::SharedDirectory;
using distributed::world;

constexpr std::int64_t kSequences = 8;  // of the global batch

ModelConfig small_model() {
  ModelConfig c;
  c.layers = 2;
  c.hidden = 32;
  c.heads = 4;
  c.vocabulary = 64;
  c.seq_length = 12;
  c.first_k_dense = 1;
  c.moe.router.experts = 8;
  c.moe.router.top_k = 3;
  c.moe.router.z_loss_coeff = 1e-3;
  c.moe.ffn_hidden = 16;
  c.moe.activation = Activation::swiglu;
  c.resolve();
  return c;
}

struct Training {
  Training(DType dtype, const LossScaler& scaler, std::int64_t zero_stage = 0,
           const ModelConfig& config = small_model())
      : mesh(world(), 1),
        model(config, dtype, mesh, 5, true),
        optimizer({}, model.parameters(), mesh, zero_stage, /*bucket_elements=*/3000),
        step(model, optimizer, mesh, kSequences / world().size(), scaler) {}

  // `masked`: ranks before the last have no targets, so that they have no loss and no gradient.
  StepResult run(std::int64_t batch, bool masked = false) {
    const std::int64_t micro = kSequences / world().size();
    return step.run(1, 3e-3, [&](std::int64_t, const Tensor& tokens, const Tensor& targets) {
      const std::int64_t seq = model.config().seq_length;
      const Rng rng(11, "tokens");
      for (std::int64_t s = 0; s < micro; ++s) {
        auto value = static_cast<std::int64_t>(
            rng.below(static_cast<std::uint64_t>(batch * kSequences + world().rank() * micro + s), 64));
        for (std::int64_t i = 0; i < seq; ++i) {
          tokens.data<std::int32_t>()[s * seq + i] = static_cast<std::int32_t>(value);
          value = (value * 5 + 3) % 64;
          targets.data<std::int32_t>()[s * seq + i] = masked && world().rank() + 1 < world().size()
                                                          ? kIgnoredTarget
                                                          : static_cast<std::int32_t>(value);
        }
      }
    });
  }

  // Bits of all masters and moments of this rank.
  std::vector<std::vector<std::byte>> bits() const {
    std::vector<std::vector<std::byte>> all;
    for (const auto& s : optimizer.states())
      for (const Tensor& t : {s.value, s.remainder, s.m, s.v})
        if (t.defined()) all.push_back(bytes_of(t));
    return all;
  }

  Mesh mesh;
  Transformer model;
  Optimizer optimizer;
  TrainingStep step;
};

TEST(LossScale, TrainsAsF32DoesOnceTheScaleIsFound) {
  constexpr int kUpdates = 12;
  for (const std::int64_t zero_stage : {0, 1}) {
    Training exact(DType::f32, {}, zero_stage);
    Training scaled(DType::f16, LossScaler(LossScaleConfig{}), zero_stage);
    int skipped = 0;
    double first = 0.0;
    double last = 0.0;
    for (int i = 0; i < kUpdates; ++i) {
      const StepResult expected = exact.run(i);
      StepResult found = scaled.run(i);
      for (; found.overflow; found = scaled.run(i)) {
        ASSERT_LT(++skipped, 32) << "the scale does not settle";
        ASSERT_TRUE(found.skipped);
      }
      // An f16 number is off by 2^-12 at most; a few of them make the loss.
      EXPECT_NEAR(found.lm_loss, expected.lm_loss, 2e-3 * expected.lm_loss) << i;
      EXPECT_NEAR(found.z_loss, expected.z_loss, 1e-2 * expected.z_loss) << i;
      EXPECT_NEAR(found.gradient_norm, expected.gradient_norm, 2e-2 * expected.gradient_norm) << i;
      if (i == 0) first = found.lm_loss;
      last = found.lm_loss;
    }
    EXPECT_GT(skipped, 3) << "2^32 was no overflow: nothing was found";
    EXPECT_LT(last, 0.9 * first) << "nothing was learnt: the comparison would prove little";
    EXPECT_EQ(scaled.optimizer.steps(), kUpdates);
    EXPECT_EQ(scaled.step.scaler().scale(), std::ldexp(1.0, 32 - (skipped - 1)));  // a hysteresis of 2
  }
}

// Ranks before the last have gradients of 0 whatever the scale, the last one overflows.
TEST(LossScale, AnOverflowOnOneRankSkipsTheStepOnAll) {
  ModelConfig config = small_model();
  config.moe.router.z_loss_coeff = 0.0;
  for (const std::int64_t zero_stage : {0, 1}) {
    Training training(DType::f16, LossScaler(LossScaleConfig{.initial = 0x1p40, .hysteresis = 1}), zero_stage,
                      config);
    const auto before = training.bits();
    const StepResult r = training.run(0, /*masked=*/true);
    EXPECT_TRUE(r.skipped);
    EXPECT_TRUE(r.overflow);
    EXPECT_TRUE(std::isfinite(r.lm_loss));
    EXPECT_EQ(training.bits(), before);
    EXPECT_EQ(training.optimizer.steps(), 0);
    EXPECT_EQ(training.step.scaler().scale(), 0x1p39);
  }
}

TEST(LossScale, ResumedBetweenTwoChangesItHasTheSameBits) {
  constexpr int kSaved = 11;
  constexpr int kLast = 20;
  const LossScaler scaler(LossScaleConfig{.initial = 0x1p20, .window = 4});
  for (const std::int64_t zero_stage : {0, 1}) {
    Training whole(DType::f16, scaler, zero_stage);
    Training first(DType::f16, scaler, zero_stage);
    std::vector<double> expected;
    std::int64_t changes = 0;
    for (int i = 0; i < kLast; ++i) {
      const double scale = whole.step.scaler().scale();
      expected.push_back(whole.run(i).lm_loss);
      changes += i >= kSaved && whole.step.scaler().scale() != scale ? 1 : 0;
    }
    EXPECT_GT(changes, 0) << "the scale stayed: its trackers would not matter";
    for (int i = 0; i < kSaved; ++i) first.run(i);
    ASSERT_NE(first.step.scaler().state().growth_tracker, 0) << "not between two changes";
    const SharedDirectory root;
    save_checkpoint(root.path(), kSaved, training_tensors(first.optimizer), "{}", first.mesh, {});
    Training second(DType::f16, scaler, zero_stage);
    load_training(read_manifest(root.path()), second.optimizer, /*moments=*/true, world());
    second.optimizer.set_steps(first.optimizer.steps());
    second.step.scaler().restore(first.step.scaler().state());
    EXPECT_EQ(second.bits(), first.bits());
    for (int i = kSaved; i < kLast; ++i)
      EXPECT_EQ(second.run(i).lm_loss, expected[static_cast<std::size_t>(i)]);
    EXPECT_EQ(second.bits(), whole.bits());
    EXPECT_EQ(second.step.scaler().state(), whole.step.scaler().state());
    world().barrier();
  }
}

// Scales differ, gradients and norms do not: powers of two are exact until something under- or overflows.
TEST(LossScale, TheNormIsThatOfTheUnscaledLoss) {
  std::vector<double> norms;
  for (const double scale : {0x1p10, 0x1p11})
    norms.push_back(
        Training(DType::f16, LossScaler(LossScaleConfig{.constant = scale})).run(0).gradient_norm);
  EXPECT_NEAR(norms[0], norms[1], 1e-3 * norms[0]);
}

std::string error_of(const LossScaleConfig& config, int* iterations) {
  Training training(DType::f16, LossScaler(config));
  try {
    for (*iterations = 0; *iterations < 8; ++*iterations) training.run(0);
  } catch (const Error& error) {
    EXPECT_EQ(error.scope(), ErrorScope::every_rank);
    return error.what();
  }
  return {};
}

TEST(LossScale, OverflowsEndTheRunOnlyWhereTheScaleCannotFall) {
  int iterations = 0;
  // 2^45 overflows; so does the minimum, which is reached after two iterations.
  const std::string error = error_of({.initial = 0x1p45, .minimum = 0x1p43, .hysteresis = 1}, &iterations);
  EXPECT_EQ(iterations, 2 + TrainingStep::kMaxConsecutiveSkips - 1);
  EXPECT_NE(error.find("loss scale of 8796093022208"), std::string::npos) << error;
  EXPECT_NE(error_of({.constant = 0x1p45}, &iterations).find("Lower --loss-scale"), std::string::npos);
  EXPECT_EQ(iterations, TrainingStep::kMaxConsecutiveSkips - 1);
  EXPECT_EQ(error_of({.initial = 0x1p45, .hysteresis = 1}, &iterations), "");
}

// A loss that is not finite is no matter of the scale.
TEST(LossScale, ALossThatIsNotFiniteEndsTheRun) {
  Training training(DType::f16, LossScaler(LossScaleConfig{.initial = 0x1p10}));
  for (const auto& p : training.model.parameters().all())
    if (p.name == "embedding.weight")
      std::fill_n(p.value.data<f16>(), p.value.numel(), f16(std::numeric_limits<float>::quiet_NaN()));
  for (int i = 1; i < TrainingStep::kMaxConsecutiveSkips; ++i) {
    const StepResult r = training.run(0);
    EXPECT_TRUE(r.skipped);
    EXPECT_FALSE(r.overflow);
  }
  EXPECT_THROW(training.run(0), Error);
}

}  // namespace
}  // namespace xmoe
