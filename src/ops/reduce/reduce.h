// Reductions of a whole tensor to a host value. Sums are taken in double over fixed blocks, so that they
// depend on neither the number of threads nor their timing.
#pragma once

#include <span>

#include "device/context.h"
#include "device/tensor.h"

namespace xmoe {

double sum(const Context& ctx, const Tensor& x);  // any shape, f32
double sum_of_squares(const Context& ctx,
                      const Tensor& x);  // any shape, f32 or bf16; not finite if any element is not
// Over all elements of all of them, likewise; on a GPU the host waits once.
double sum_of_squares(const Context& ctx, std::span<const Tensor> tensors);

}  // namespace xmoe
