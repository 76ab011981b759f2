#include "train/step_summary.h"

#include <limits>

namespace xmoe {

void StepSummary::add(const StepResult& result, double seconds) {
  ++iterations_;
  seconds_ += seconds;
  sums_.useful_flops += result.useful_flops;
  sums_.gradient_norm = result.gradient_norm;
  sums_.dropped_fraction += result.dropped_fraction;
  sums_.expert_load_max_over_mean += result.expert_load_max_over_mean;
  if (result.skipped) {
    ++skipped_;
    overflows_ += result.overflow ? 1 : 0;
    return;
  }
  sums_.lm_loss += result.lm_loss;
  sums_.aux_loss += result.aux_loss;
  sums_.z_loss += result.z_loss;
}

void StepSummary::fill(IterationMetrics& m, const ModelConfig& model, int world_size) const {
  const auto n = static_cast<double>(iterations_);
  const auto finite = static_cast<double>(iterations_ - skipped_);
  const auto mean = [finite](double sum) {
    return finite > 0.0 ? sum / finite : std::numeric_limits<double>::quiet_NaN();
  };
  m.lm_loss = mean(sums_.lm_loss);
  m.aux_loss = mean(sums_.aux_loss);
  m.z_loss = mean(sums_.z_loss);
  m.grad_norm = sums_.gradient_norm;
  m.step_ms = 1e3 * seconds_ / n;
  m.tokens_per_second = n * static_cast<double>(m.global_batch * model.seq_length) / seconds_;
  m.tflops_per_device = sums_.useful_flops / seconds_ / world_size / 1e12;
  // flops_per_token() counts (S + 1) / 2 of the S scores and values that a token's square has on average.
  const double above_the_diagonal =
      6.0 * static_cast<double>(model.layers * model.heads * model.head_dim * (model.seq_length - 1));
  m.tflops_per_device_xmoe =
      m.tokens_per_second * (model.flops_per_token() + above_the_diagonal) / world_size / 1e12;
  m.dropped_fraction = sums_.dropped_fraction / n;
  m.expert_load_max_over_mean = sums_.expert_load_max_over_mean / n;
  m.skipped_iterations = skipped_;
  m.nan_iterations = skipped_ - overflows_;
}

}  // namespace xmoe
