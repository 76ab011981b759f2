#include "train/schedule.h"

#include <cmath>
#include <numbers>

#include "base/error.h"

namespace xmoe {

double Schedule::rate_at(std::int64_t samples) const {
  const auto n = static_cast<double>(samples);
  if (warmup_samples > 0 && samples <= warmup_samples)
    return init_rate + (max_rate - init_rate) * n / static_cast<double>(warmup_samples);
  if (style == DecayStyle::constant) return max_rate;
  if (samples > decay_samples) return min_rate;
  const double ratio =
      (n - static_cast<double>(warmup_samples)) / static_cast<double>(decay_samples - warmup_samples);
  const double share =
      style == DecayStyle::linear ? 1.0 - ratio : 0.5 * (std::cos(std::numbers::pi * ratio) + 1.0);
  return min_rate + share * (max_rate - min_rate);
}

Lengths lengths_in_samples(const TrainConfig& resolved) {
  const OptimizerConfig& optimizer = resolved.optimizer;
  const std::int64_t global = resolved.batch.global;
  const std::int64_t seq = resolved.model.seq_length;
  XMOE_CHECK(global > 0 && seq > 0, "the configuration is not resolved");

  Lengths lengths;
  lengths.decay = resolved.batch.train_iterations * global;
  if (optimizer.decay_iterations > 0) lengths.decay = optimizer.decay_iterations * global;
  if (optimizer.decay_samples > 0) lengths.decay = optimizer.decay_samples;
  if (optimizer.decay_tokens > 0) lengths.decay = optimizer.decay_tokens / seq;

  if (optimizer.warmup_fraction)
    lengths.warmup = std::llround(*optimizer.warmup_fraction * static_cast<double>(lengths.decay));
  if (optimizer.warmup_iterations > 0) lengths.warmup = optimizer.warmup_iterations * global;
  if (optimizer.warmup_samples > 0) lengths.warmup = optimizer.warmup_samples;
  if (optimizer.warmup_tokens > 0) lengths.warmup = optimizer.warmup_tokens / seq;
  return lengths;
}

Schedule make_schedule(const TrainConfig& resolved) {
  const OptimizerConfig& optimizer = resolved.optimizer;
  const Lengths lengths = lengths_in_samples(resolved);
  Schedule schedule;
  schedule.max_rate = optimizer.learning_rate;
  schedule.min_rate = optimizer.min_learning_rate;
  schedule.init_rate = optimizer.init_learning_rate;
  schedule.style = optimizer.decay_style;
  schedule.warmup_samples = lengths.warmup;
  schedule.decay_samples = lengths.decay;
  return schedule;
}

}  // namespace xmoe
