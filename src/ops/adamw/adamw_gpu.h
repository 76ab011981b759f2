#pragma once

#include "ops/adamw/adamw.h"

namespace xmoe::gpu {

void adamw(const Context& ctx, const AdamWOptions& options, const Tensor& grad, const Tensor& value,
           const Tensor& remainder, const Tensor& m, const Tensor& v);

}  // namespace xmoe::gpu
