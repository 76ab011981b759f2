#pragma once

#include "ops/rope/rope.h"

namespace xmoe::cpu {

void rope_table(double base, const Tensor& table);
void rope(RopeDirection direction, std::int64_t rotated_heads, const Tensor& x, const Tensor& table);

}  // namespace xmoe::cpu
