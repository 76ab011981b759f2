// Which documents a run reads: data sets with weights (--data-path), cut into training, validation and test
// (--split), as Megatron does.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "data/indexed_dataset/indexed_dataset.h"

namespace xmoe {

enum class Split : std::uint8_t { train = 0, valid = 1, test = 2 };
std::string_view name_of(Split split);

using SplitWeights = std::array<double, 3>;  // of training, validation and test; of any positive sum

struct DocumentRange {
  std::int64_t begin = 0;
  std::int64_t end = 0;
};
// Consecutive ranges of the documents, by rounding the cumulated weights.
DocumentRange documents_of(Split split, const SplitWeights& weights, std::int64_t documents);

struct BlendEntry {
  double weight = 1.0;  // positive; weights need not sum to 1
  std::string prefix;
};

struct WeightedDataset {
  double weight = 1.0;
  std::shared_ptr<const IndexedDataset> dataset;
};
using DataBlend = std::vector<WeightedDataset>;
DataBlend open_blend(std::span<const BlendEntry> entries);

}  // namespace xmoe
