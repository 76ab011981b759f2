// What the iterations since the last report come to.
#pragma once

#include <cstdint>

#include "train/metrics.h"
#include "train/training_step.h"

namespace xmoe {

class StepSummary {
 public:
  void add(const StepResult& result, double seconds);

  bool empty() const { return iterations_ == 0; }
  // Means, rates and counts of `metrics`, from its global batch and the model; the rest is the caller's.
  // Losses are means over the iterations that were not skipped, NaN if all were.
  void fill(IterationMetrics& metrics, const ModelConfig& model, int world_size) const;

 private:
  StepResult sums_;  // of gradient norms the last
  double seconds_ = 0.0;
  std::int64_t iterations_ = 0;
  std::int64_t skipped_ = 0;
  std::int64_t overflows_ = 0;
};

}  // namespace xmoe
