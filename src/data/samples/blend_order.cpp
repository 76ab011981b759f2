#include <algorithm>
#include <numeric>
#include <utility>

#include "base/error.h"
#include "data/samples/sample_stream.h"

namespace xmoe {

namespace {
// Where the order can be entered: one row of counts is kept for so many samples.
constexpr std::int64_t kBlockSamples = std::int64_t{1} << 14;
}  // namespace

BlendOrder::BlendOrder(std::vector<double> weights) : weights_(std::move(weights)) {
  const double sum = std::accumulate(weights_.begin(), weights_.end(), 0.0);
  XMOE_CHECK(sum > 0, "weights of a blend sum to {}", sum);
  for (double& weight : weights_) weight /= sum;
  starts_.assign(weights_.size(), 0);
}

std::size_t BlendOrder::choose(std::int64_t sample, std::span<const std::int64_t> counts) const {
  // Behind its share after this sample, were it not chosen.
  const auto target = static_cast<double>(sample + 1);
  std::size_t best = 0;
  double most = weights_[0] * target - static_cast<double>(counts[0]);
  for (std::size_t i = 1; i < weights_.size(); ++i) {
    const double behind = weights_[i] * target - static_cast<double>(counts[i]);
    if (behind > most) {
      most = behind;
      best = i;
    }
  }
  return best;
}

void BlendOrder::extend_to(std::int64_t block) const {
  const std::size_t width = weights_.size();
  auto known = static_cast<std::int64_t>(starts_.size() / width) - 1;
  std::vector<std::int64_t> counts(starts_.end() - static_cast<std::ptrdiff_t>(width), starts_.end());
  for (; known < block; ++known) {
    for (std::int64_t i = 0; i < kBlockSamples; ++i) ++counts[choose(known * kBlockSamples + i, counts)];
    starts_.insert(starts_.end(), counts.begin(), counts.end());
  }
}

BlendOrder::Choice BlendOrder::at(std::int64_t sample) const {
  XMOE_CHECK(sample >= 0, "sample {}", sample);
  if (weights_.size() == 1) return {0, sample};
  const std::int64_t number = sample / kBlockSamples;
  const std::scoped_lock lock(mutex_);
  if (block_.number != number) {
    extend_to(number);
    const auto start =
        starts_.begin() + static_cast<std::ptrdiff_t>(number) * static_cast<std::ptrdiff_t>(weights_.size());
    std::vector<std::int64_t> counts(start, start + static_cast<std::ptrdiff_t>(weights_.size()));
    block_.choices.clear();
    for (std::int64_t i = 0; i < kBlockSamples; ++i) {
      const std::size_t chosen = choose(number * kBlockSamples + i, counts);
      block_.choices.push_back({chosen, counts[chosen]++});
    }
    block_.number = number;
  }
  return block_.choices[static_cast<std::size_t>(sample % kBlockSamples)];
}

}  // namespace xmoe
