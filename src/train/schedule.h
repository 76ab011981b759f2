// Learning rate over the course of a training, by Megatron's formulas. Lengths are in samples, so that a
// change of the batch size does not change the course.
//
//   n <= warm-up   init + (max - init) * n / warm-up
//   constant       max
//   n > decay      min
//   linear         min + (max - min) * (1 - r)
//   cosine         min + (max - min) * (1 + cos(pi r)) / 2
//
// where r = (n - warm-up) / (decay - warm-up).
#pragma once

#include <cstdint>

#include "train/config.h"

namespace xmoe {

struct Schedule {
  double max_rate = 0.0;
  double min_rate = 0.0;
  double init_rate = 0.0;
  DecayStyle style = DecayStyle::constant;
  std::int64_t warmup_samples = 0;
  std::int64_t decay_samples = 0;

  // `samples` counts those of the iteration that the rate is for: the first iteration of a warm-up is then
  // not wasted on a rate of zero, the last one has the minimum, and the rates are those that Megatron's log
  // shows for the same iterations.
  double rate_at(std::int64_t samples) const;
};

Schedule make_schedule(const TrainConfig& resolved);

// The warm-up and the decay, whatever unit they were given in.
struct Lengths {
  std::int64_t warmup = 0;
  std::int64_t decay = 0;
};
Lengths lengths_in_samples(const TrainConfig& resolved);

}  // namespace xmoe
