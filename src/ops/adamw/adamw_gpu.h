#pragma once

#include "ops/adamw/adamw.h"

namespace xmoe::gpu {

void adamw(const Context& ctx, const AdamWOptions& options, const Tensor& grad, const Tensor& master,
           const Tensor& m, const Tensor& v, const Tensor& value);

}  // namespace xmoe::gpu
