#pragma once

#include "device/context.h"

namespace xmoe::gpu {

// x and dx in bf16 or f16.
void router_logits(const Context& ctx, const Tensor& x, const Tensor& w, const Tensor& logits);
void router_backward(const Context& ctx, const Tensor& dlogits, const Tensor& x, const Tensor& w,
                     const Tensor& dw, const Tensor& dx);

}  // namespace xmoe::gpu
