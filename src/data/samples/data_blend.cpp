#include "data/samples/data_blend.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "base/error.h"

namespace xmoe {

std::string_view name_of(Split split) {
  constexpr std::array<std::string_view, 3> kNames{"training", "validation", "test"};
  return kNames[static_cast<std::size_t>(split)];
}

DocumentRange documents_of(Split split, const SplitWeights& weights, std::int64_t documents) {
  const double sum = std::accumulate(weights.begin(), weights.end(), 0.0);
  XMOE_CHECK(sum > 0, "split weights sum to {}", sum);
  const auto bound = [&](std::size_t count) {
    const auto first = weights.begin();
    const double share = std::accumulate(first, first + static_cast<std::ptrdiff_t>(count), 0.0) / sum;
    // The last part with any weight ends where the documents end, whatever the rounding of the sum.
    const bool all = std::all_of(weights.begin() + static_cast<std::ptrdiff_t>(count), weights.end(),
                                 [](double weight) { return weight == 0; });
    return all ? documents
               : std::min(documents,
                          static_cast<std::int64_t>(std::llround(share * static_cast<double>(documents))));
  };
  const auto index = static_cast<std::size_t>(split);
  const std::int64_t end = bound(index + 1);
  return {index == 0 ? 0 : bound(index), end};
}

DataBlend open_blend(std::span<const BlendEntry> entries) {
  DataBlend blend;
  blend.reserve(entries.size());
  for (const auto& entry : entries)
    blend.push_back({entry.weight, std::make_shared<const IndexedDataset>(entry.prefix)});
  return blend;
}

}  // namespace xmoe
