#pragma once

#include "ops/rope/rope.h"

namespace xmoe::gpu {

void rope(const Context& ctx, RopeDirection direction, std::int64_t rotated_heads, const Tensor& x,
          const Tensor& table);

}  // namespace xmoe::gpu
