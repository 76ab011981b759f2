// Which elements of a global tensor a part's are, by the definition of Sharding and nothing else.
#pragma once

#include <cstdint>
#include <vector>

#include "model/sharding.h"

namespace xmoe {

inline std::vector<std::int64_t> elements_of(const Shape& global, const Sharding& sharding) {
  std::vector<std::int64_t> elements = {0};
  for (int axis = 0; axis < global.rank(); ++axis) {
    auto ranges = sharding.axes[static_cast<std::size_t>(axis)];
    if (ranges.empty()) ranges = {{0, global[axis]}};
    std::vector<std::int64_t> next;
    for (const std::int64_t element : elements)
      for (const AxisRange& range : ranges)
        for (std::int64_t i = 0; i < range.size; ++i)
          next.push_back(element * global[axis] + range.begin + i);
    elements = std::move(next);
  }
  return elements;
}

// Of element `local` of the part.
inline std::int64_t global_index(const Shape& global, const Sharding& sharding, std::int64_t local) {
  const Shape part = sharding.local_shape(global);
  std::int64_t index = 0;
  std::int64_t stride = 1;
  for (int axis = global.rank() - 1; axis >= 0; --axis) {
    std::int64_t at = local % part[axis];
    local /= part[axis];
    for (const AxisRange& range : sharding.axes[static_cast<std::size_t>(axis)]) {
      if (at < range.size) {
        at += range.begin;
        break;
      }
      at -= range.size;
    }
    index += at * stride;
    stride *= global[axis];
  }
  return index;
}

}  // namespace xmoe
