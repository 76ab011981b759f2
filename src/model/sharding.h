// Which part of a global tensor a rank holds, and which of its elements the part's are. Both are row-major.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "device/tensor.h"

namespace xmoe {

struct AxisRange {
  std::int64_t begin = 0;
  std::int64_t size = 0;
};

// Part `index` of `parts` equal ones of [begin, begin + size).
AxisRange equal_part(const AxisRange& whole, std::int64_t index, std::int64_t parts);

// Along each axis the listed ranges one behind the other; an axis without ranges is held whole.
struct Sharding {
  std::array<std::vector<AxisRange>, Shape::kMaxRank> axes;

  Shape local_shape(const Shape& global) const;
};

// The same of one global shape, as a plain value that kernels take and ask.
class ShardIndex {
 public:
  // Queries, keys and values that lie one behind the other: no matrix is cut into more.
  static constexpr int kMostRanges = 3;

  // At most kMostRanges along an axis.
  ShardIndex(const Shape& global, const Sharding& sharding);

  // Elements that follow each other in the part and in the global tensor, where the first has this index.
  struct Run {
    std::int64_t index;
    std::int64_t count;
  };
  // From element `local` of the part on, within the last axis. Usable in kernels.
  constexpr Run run_at(std::int64_t local) const {
    Run run{0, 1};
    for (int i = rank_ - 1; i >= 0; --i) {
      const Axis& axis = axes_[i];
      std::int64_t at = local % axis.size;
      local /= axis.size;
      int r = 0;
      while (at >= axis.ranges[r].size) at -= axis.ranges[r++].size;
      if (i == rank_ - 1) run.count = axis.ranges[r].size - at;
      run.index += (axis.ranges[r].begin + at) * axis.stride;
    }
    return run;
  }
  std::int64_t numel() const;  // of the part

 private:
  struct Axis {
    std::int64_t size = 0;    // in the part: the sum of the ranges
    std::int64_t stride = 0;  // in the global tensor
    AxisRange ranges[kMostRanges];
  };
  Axis axes_[Shape::kMaxRank];
  int rank_;
};

}  // namespace xmoe
