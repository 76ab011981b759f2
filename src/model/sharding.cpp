#include "model/sharding.h"

#include <algorithm>

namespace xmoe {

AxisRange equal_part(const AxisRange& whole, std::int64_t index, std::int64_t parts) {
  XMOE_CHECK(whole.size % parts == 0, "{} do not divide into {} equal parts", whole.size, parts);
  const std::int64_t size = whole.size / parts;
  return {whole.begin + index * size, size};
}

Shape Sharding::local_shape(const Shape& global) const {
  Shape local = global;
  for (int axis = 0; axis < global.rank(); ++axis) {
    const auto& ranges = axes[static_cast<std::size_t>(axis)];
    if (ranges.empty()) continue;
    local[axis] = 0;
    for (const AxisRange& r : ranges) local[axis] += r.size;
  }
  return local;
}

ShardIndex::ShardIndex(const Shape& global, const Sharding& sharding) : rank_(global.rank()) {
  const Shape local = sharding.local_shape(global);
  std::int64_t stride = 1;
  for (int i = rank_ - 1; i >= 0; --i) {
    const auto& ranges = sharding.axes[static_cast<std::size_t>(i)];
    XMOE_CHECK(ranges.size() <= kMostRanges, "{} ranges along axis {}", ranges.size(), i);
    axes_[i].size = local[i];
    axes_[i].stride = stride;
    if (ranges.empty())
      axes_[i].ranges[0] = {0, global[i]};
    else
      std::copy(ranges.begin(), ranges.end(), axes_[i].ranges);
    stride *= global[i];
  }
}

std::int64_t ShardIndex::numel() const {
  std::int64_t count = 1;
  for (int i = 0; i < rank_; ++i) count *= axes_[i].size;
  return count;
}

}  // namespace xmoe
