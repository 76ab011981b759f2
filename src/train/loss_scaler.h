// Scaling of the loss for f16, whose gradients would otherwise vanish below 2^-24 (Micikevicius et al. 2018,
// "Mixed Precision Training"): backward starts from the loss times a scale, and the optimizer divides the
// summed gradients by it. Dynamic as in Megatron-LM: an iteration whose gradients overflow is skipped,
//
//   overflow   growth = 0;  hysteresis -= 1;  if hysteresis <= 0: scale = max(scale / 2, minimum)
//   otherwise  growth += 1;  if growth = window: scale *= 2, growth = 0, hysteresis = its setting
//
// Hysteresis comes back with growth alone: once it is used up, every overflow halves the scale.
#pragma once

#include <cstdint>

#include "train/config.h"

namespace xmoe {

class LossScaler {
 public:
  // What a checkpoint keeps.
  struct State {
    double scale = 1.0;
    std::int64_t growth_tracker = 0;      // iterations without overflow, since the last or since a change
    std::int64_t hysteresis_tracker = 0;  // overflows until the scale falls

    bool operator==(const State&) const = default;
  };

  LossScaler() = default;  // a scale of 1 for ever, which f32 and bf16 train with
  explicit LossScaler(const LossScaleConfig& config);

  double scale() const { return state_.scale; }
  bool dynamic() const { return dynamic_; }
  // Whether overflows can still be answered by a smaller scale.
  bool can_fall() const { return dynamic_ && state_.scale > config_.minimum; }
  // After each iteration, with whether its summed gradients were not finite: the same on every rank.
  void update(bool overflow);

  const State& state() const { return state_; }
  void restore(const State& state);  // nothing where the scale is constant: its setting counts

 private:
  LossScaleConfig config_;
  bool dynamic_ = false;
  State state_;
};

}  // namespace xmoe
