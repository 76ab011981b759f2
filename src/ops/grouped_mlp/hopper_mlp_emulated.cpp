// Tensor cores are not emulated.
#include "ops/grouped_mlp/hopper_mlp_gpu.h"

namespace xmoe::gpu {

bool hopper_fits(const Device&, const Tensor&, const Tensor&) { return false; }

void hopper_mlp_forward(const Context& ctx, Activation, const ExpertRows&, const RowPair&, const Tensor&,
                        const Tensor&, const Tensor&, const RowPair&) {
  fail_not_built("hopper_mlp_forward", ctx.device());
}

void hopper_mlp_backward(const Context& ctx, Activation, const ExpertRows&, const RowPair&, const RowPair&,
                         const Tensor&, const Tensor&, const Tensor&, const RowPair&, const Tensor&,
                         const Tensor&, const Tensor&, Accumulation) {
  fail_not_built("hopper_mlp_backward", ctx.device());
}

}  // namespace xmoe::gpu
