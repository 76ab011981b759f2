// Index arrays that are runs of consecutive numbers.
#pragma once

#include <cstdint>
#include <span>

#include "device/context.h"
#include "device/tensor.h"

namespace xmoe {

struct Run {
  std::int64_t begin = 0;
  std::int64_t count = 0;
};

// begin, begin + 1, ... of each run, one run behind another.
void fill_runs(const Context& ctx, std::span<const Run> runs,
               const Tensor& out);  // [sum of counts] i32

}  // namespace xmoe
