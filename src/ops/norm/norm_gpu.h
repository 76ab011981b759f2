#pragma once

#include "ops/norm/norm.h"

namespace xmoe::gpu {

void norm_forward(const Context& ctx, NormKind kind, float epsilon, const Tensor& x, const Tensor& weight,
                  const Tensor& bias, const Tensor& y, const Tensor& stats);
void norm_recompute(const Context& ctx, NormKind kind, const Tensor& x, const Tensor& weight,
                    const Tensor& bias, const Tensor& stats, const Tensor& y);
void norm_backward(const Context& ctx, NormKind kind, const Tensor& dy, const Tensor& x, const Tensor& weight,
                   const Tensor& stats, const Tensor& dx, const Tensor& dweight, const Tensor& dbias);

}  // namespace xmoe::gpu
