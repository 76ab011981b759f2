#pragma once

#include "device/arena.h"
#include "ops/norm/norm.h"

namespace xmoe::cpu {

void norm_forward(NormKind kind, float epsilon, const Tensor& x, const Tensor& weight, const Tensor& bias,
                  const Tensor& y, const Tensor& stats);
void norm_recompute(NormKind kind, const Tensor& x, const Tensor& weight, const Tensor& bias,
                    const Tensor& stats, const Tensor& y);
void norm_backward(Arena& workspace, NormKind kind, const Tensor& dy, const Tensor& x, const Tensor& weight,
                   const Tensor& stats, const Tensor& dx, const Tensor& dweight, const Tensor& dbias);

}  // namespace xmoe::cpu
