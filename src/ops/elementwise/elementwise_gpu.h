#pragma once

#include "device/context.h"

namespace xmoe::gpu {

void add(const Context& ctx, const Tensor& a, const Tensor& b, const Tensor& out);
void convert(const Context& ctx, const Tensor& from, const Tensor& to);

}  // namespace xmoe::gpu
