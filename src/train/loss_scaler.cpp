#include "train/loss_scaler.h"

#include <algorithm>

namespace xmoe {

LossScaler::LossScaler(const LossScaleConfig& config) : config_(config), dynamic_(config.constant == 0.0) {
  state_.scale = dynamic_ ? config.initial : config.constant;
  state_.hysteresis_tracker = config.hysteresis;
}

void LossScaler::update(bool overflow) {
  if (!dynamic_) return;
  if (overflow) {
    state_.growth_tracker = 0;
    if (--state_.hysteresis_tracker <= 0) state_.scale = std::max(state_.scale / 2.0, config_.minimum);
  } else if (++state_.growth_tracker >= config_.window) {
    state_.growth_tracker = 0;
    state_.hysteresis_tracker = config_.hysteresis;
    state_.scale *= 2.0;
  }
}

void LossScaler::restore(const State& state) {
  if (!dynamic_) return;
  state_ = state;
  state_.scale = std::max(state_.scale, config_.minimum);
}

}  // namespace xmoe
