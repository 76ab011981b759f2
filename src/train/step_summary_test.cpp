#include "train/step_summary.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

namespace xmoe {
namespace {

StepResult step(double loss) {
  StepResult r;
  r.lm_loss = loss;
  r.aux_loss = loss / 10;
  r.z_loss = loss / 100;
  r.gradient_norm = 2 * loss;
  r.skipped = !std::isfinite(loss);
  r.dropped_fraction = 0.25;
  r.expert_load_max_over_mean = 1.5;
  r.useful_flops = 3e12;
  return r;
}

ModelConfig model() {
  ModelConfig model;
  model.layers = 3;
  model.hidden = 8;
  model.heads = 2;
  model.vocabulary = 32;
  model.seq_length = 16;
  model.resolve();
  return model;
}

IterationMetrics filled(const StepSummary& summary) {
  IterationMetrics m;
  m.global_batch = 8;
  summary.fill(m, model(), 2);
  return m;
}

TEST(StepSummary, MeansAreOfTheIterationsThatWereNotSkipped) {
  StepSummary summary;
  EXPECT_TRUE(summary.empty());
  summary.add(step(4.0), 1.0);
  summary.add(step(std::numeric_limits<double>::infinity()), 2.0);
  summary.add(step(2.0), 3.0);
  EXPECT_FALSE(summary.empty());
  const IterationMetrics m = filled(summary);
  EXPECT_EQ(m.lm_loss, 3.0);
  EXPECT_DOUBLE_EQ(m.aux_loss, 0.3);
  EXPECT_DOUBLE_EQ(m.z_loss, 0.03);
  EXPECT_EQ(m.grad_norm, 4.0);
  EXPECT_EQ(m.step_ms, 2000.0);
  EXPECT_EQ(m.tokens_per_second, 3 * 8 * 16 / 6.0);
  EXPECT_EQ(m.tflops_per_device, 9.0 / 6.0 / 2);
  // 6 FLOPs per weight and token; scores and values of the whole square: 2 * S * H products per token.
  const double weights = 32 * 8 + 3 * (4 * 8 * 8 + 2 * 8 * 32);
  EXPECT_DOUBLE_EQ(m.tflops_per_device_xmoe * 1e12,
                   m.tokens_per_second * 6.0 * (weights + 3 * 2 * 16 * 8) / 2);
  EXPECT_EQ(m.dropped_fraction, 0.25);
  EXPECT_EQ(m.expert_load_max_over_mean, 1.5);
  EXPECT_EQ(m.skipped_iterations, 1);
}

TEST(StepSummary, AnOverflowIsNoNan) {
  StepSummary summary;
  summary.add(step(4.0), 1.0);
  summary.add(step(std::numeric_limits<double>::quiet_NaN()), 1.0);
  StepResult overflow = step(100.0);
  overflow.skipped = overflow.overflow = true;
  summary.add(overflow, 1.0);
  const IterationMetrics m = filled(summary);
  EXPECT_EQ(m.lm_loss, 4.0);
  EXPECT_EQ(m.skipped_iterations, 2);
  EXPECT_EQ(m.nan_iterations, 1);
}

TEST(StepSummary, NoLossIsNotALossOfZero) {
  StepSummary summary;
  summary.add(step(std::numeric_limits<double>::quiet_NaN()), 1.0);
  const IterationMetrics m = filled(summary);
  EXPECT_TRUE(std::isnan(m.lm_loss));
  EXPECT_EQ(m.skipped_iterations, 1);
  EXPECT_NE(metrics_json(m).find("\"lm_loss\":null"), std::string::npos) << metrics_json(m);
  EXPECT_NE(iteration_line(m, "now").find("lm loss: NAN"), std::string::npos) << iteration_line(m, "now");
}

}  // namespace
}  // namespace xmoe
