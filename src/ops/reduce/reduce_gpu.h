#pragma once

#include <span>

#include "device/context.h"

namespace xmoe::gpu {

double sum(const Context& ctx, const Tensor& x);
double sum_of_squares(const Context& ctx, std::span<const Tensor> tensors);

}  // namespace xmoe::gpu
