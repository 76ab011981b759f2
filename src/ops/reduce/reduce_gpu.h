#pragma once

#include "device/context.h"

namespace xmoe::gpu {

double sum(const Context& ctx, const Tensor& x);
double sum_of_squares(const Context& ctx, const Tensor& x);

}  // namespace xmoe::gpu
