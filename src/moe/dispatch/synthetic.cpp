#include "moe/dispatch/synthetic.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "base/rng.h"

namespace xmoe {

SyntheticRouting synthetic_routing(Arena& arena, std::int64_t experts, std::int64_t top_k,
                                   std::int64_t tokens, double zipf, int rank) {
  XMOE_CHECK(top_k > 0 && top_k <= experts, "top {} of {} experts", top_k, experts);
  const auto count = static_cast<std::size_t>(experts);
  std::vector<std::int32_t> order(count);
  std::iota(order.begin(), order.end(), 0);
  const Rng places(1, "synthetic routing: places of experts");
  std::sort(order.begin(), order.end(), [&](std::int32_t a, std::int32_t b) {
    return places.bits(static_cast<std::uint64_t>(a)) < places.bits(static_cast<std::uint64_t>(b));
  });
  std::vector<double> popularity(count);
  for (std::size_t i = 0; i < count; ++i)
    popularity[static_cast<std::size_t>(order[i])] = std::pow(static_cast<double>(i + 1), -zipf);

  std::vector<std::int32_t> chosen;
  std::vector<float> weights;
  const Rng rng(1, "synthetic routing of rank " + std::to_string(rank));
  std::vector<std::pair<double, std::int32_t>> arrivals(count);
  std::uint64_t counter = 0;
  for (std::int64_t t = 0; t < tokens; ++t) {
    // Exponential clocks at the rates of the popularities: the first k to ring are a draw without
    // replacement.
    for (std::size_t e = 0; e < count; ++e)
      arrivals[e] = {-std::log1p(-rng.uniform(counter++)) / popularity[e], static_cast<std::int32_t>(e)};
    std::partial_sort(arrivals.begin(), arrivals.begin() + top_k, arrivals.end());
    for (std::int64_t j = 0; j < top_k; ++j) {
      chosen.push_back(arrivals[static_cast<std::size_t>(j)].second);
      weights.push_back(static_cast<float>(0.5 * (rng.uniform(counter++) + 0x1p-10)));
    }
  }
  const SyntheticRouting routing{arena.tensor(DType::i32, {tokens, top_k}),
                                 arena.tensor(DType::f32, {tokens, top_k})};
  device_copy({}, chosen.data(), arena.device(), routing.top_experts.raw(), routing.top_experts.bytes());
  device_copy({}, weights.data(), arena.device(), routing.top_weights.raw(), routing.top_weights.bytes());
  return routing;
}

}  // namespace xmoe
