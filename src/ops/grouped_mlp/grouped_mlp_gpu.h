// The GPU's half of grouped_mlp.h, free of vendor names.
#pragma once

#include "ops/grouped_mlp/grouped_mlp.h"

namespace xmoe::gpu {

void grouped_mlp_forward(const Context& ctx, Activation activation, const ExpertRows& rows, const RowPair& x,
                         const Tensor& w1, const Tensor& w2, const Tensor& h, const RowPair& y);
void grouped_mlp_backward(const Context& ctx, Activation activation, const ExpertRows& rows,
                          const RowPair& dy, const RowPair& x, const Tensor& w1, const Tensor& w2,
                          const Tensor& h, const RowPair& dx, const Tensor& dweights, const Tensor& dw1,
                          const Tensor& dw2, Accumulation accumulation);

}  // namespace xmoe::gpu
