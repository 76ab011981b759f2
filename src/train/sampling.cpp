#include "train/sampling.h"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace xmoe {

std::int32_t Sampler::choose(std::span<const float> logits, double uniform) {
  const auto likelier = [&](std::int32_t a, std::int32_t b) {
    const float la = logits[static_cast<std::size_t>(a)];
    const float lb = logits[static_cast<std::size_t>(b)];
    return la != lb ? la > lb : a < b;
  };
  order_.resize(logits.size());
  std::iota(order_.begin(), order_.end(), 0);
  if (options_.temperature == 0.0) return *std::min_element(order_.begin(), order_.end(), likelier);

  const std::size_t limit =
      options_.top_k > 0 ? std::min(static_cast<std::size_t>(options_.top_k), order_.size()) : order_.size();
  std::partial_sort(order_.begin(), order_.begin() + static_cast<std::ptrdiff_t>(limit), order_.end(),
                    likelier);
  order_.resize(limit);
  const double most = logits[static_cast<std::size_t>(order_.front())];
  probability_.clear();
  double total = 0.0;
  for (const auto id : order_) {
    probability_.push_back(
        std::exp((static_cast<double>(logits[static_cast<std::size_t>(id)]) - most) / options_.temperature));
    total += probability_.back();
  }
  // The nucleus: the shortest run of likeliest tokens that reaches top_p; at least one.
  std::size_t kept = 0;
  double mass = 0.0;
  while (kept < order_.size() && (kept == 0 || mass < options_.top_p * total)) mass += probability_[kept++];
  double left = uniform * mass;
  for (std::size_t i = 0; i + 1 < kept; ++i) {
    left -= probability_[i];
    if (left < 0.0) return order_[i];
  }
  return order_[kept - 1];
}

}  // namespace xmoe
