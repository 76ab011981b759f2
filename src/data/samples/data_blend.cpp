#include "data/samples/data_blend.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <numeric>
#include <optional>

#include "base/error.h"

namespace xmoe {

namespace {

std::optional<double> number(std::string_view text) {
  double value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size() || !std::isfinite(value)) return std::nullopt;
  return value;
}

}  // namespace

std::string_view name_of(Split split) {
  constexpr std::array<std::string_view, 3> kNames{"training", "validation", "test"};
  return kNames[static_cast<std::size_t>(split)];
}

SplitWeights parse_split(std::string_view text) {
  SplitWeights weights{};
  std::size_t count = 0;
  for (std::string_view rest = text; count < weights.size(); ++count) {
    const std::size_t comma = rest.find(',');
    const auto value = number(rest.substr(0, comma));
    if (!value || *value < 0) break;
    weights[count] = *value;
    if (comma == std::string_view::npos) {
      const double sum = std::accumulate(weights.begin(), weights.end(), 0.0);
      if (sum <= 0) break;
      for (double& weight : weights) weight /= sum;
      return weights;
    }
    rest.remove_prefix(comma + 1);
  }
  fail("--split is \"{}\"; expected up to three weights of training, validation and test, as in 98,2,0",
       text);
}

DocumentRange documents_of(Split split, const SplitWeights& weights, std::int64_t documents) {
  const auto bound = [&](std::size_t count) {
    double share = 0;
    for (std::size_t i = 0; i < count; ++i) share += weights[i];
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

std::vector<BlendEntry> parse_data_path(std::span<const std::string> arguments) {
  if (arguments.empty())
    fail("--data-path is empty; expected a prefix, or weights and prefixes as in 0.3 a 0.7 b");
  if (arguments.size() == 1) return {{1.0, arguments[0]}};
  std::vector<BlendEntry> entries;
  for (std::size_t i = 0; i < arguments.size(); i += 2) {
    const auto weight = number(arguments[i]);
    if (!weight || *weight < 0)
      fail("--data-path has \"{}\" where a weight is expected: several data sets are given as 0.3 a 0.7 b",
           arguments[i]);
    if (i + 1 == arguments.size())
      fail("--data-path ends with the weight {}; expected a prefix behind it", arguments[i]);
    if (*weight > 0) entries.push_back({*weight, arguments[i + 1]});
  }
  if (entries.empty()) fail("--data-path has no data set with a weight above 0");
  return entries;
}

DataBlend open_blend(std::span<const BlendEntry> entries) {
  DataBlend blend;
  blend.reserve(entries.size());
  for (const auto& entry : entries)
    blend.push_back({entry.weight, std::make_shared<const IndexedDataset>(entry.prefix)});
  return blend;
}

}  // namespace xmoe
