// The experts on Hopper's tensor cores (compute capability 9.0), bf16 and f16: gathers in the loads of the
// products, activations and scatters in their ends. docs/kernels.md says how.
#pragma once

#include "ops/grouped_mlp/grouped_mlp.h"

namespace xmoe::gpu {

// Whether the device and the shapes are of that kind; the portable path takes all others.
bool hopper_fits(const Device& device, const Tensor& w1, const Tensor& w2);

// As grouped_mlp.h has them.
void hopper_mlp_forward(const Context& ctx, Activation activation, const ExpertRows& rows, const RowPair& x,
                        const Tensor& w1, const Tensor& w2, const Tensor& h, const RowPair& y);
void hopper_mlp_backward(const Context& ctx, Activation activation, const ExpertRows& rows, const RowPair& dy,
                         const RowPair& x, const Tensor& w1, const Tensor& w2, const Tensor& h,
                         const RowPair& dx, const Tensor& dweights, const Tensor& dw1, const Tensor& dw2,
                         Accumulation accumulation);

}  // namespace xmoe::gpu
