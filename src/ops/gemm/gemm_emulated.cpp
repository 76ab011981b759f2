// The products that the vendor's library computes on a GPU, by the CPU's: device memory is the host's.
#include "device/gpu.h"
#include "ops/elementwise/elementwise_gpu.h"
#include "ops/gemm/gemm_cpu.h"
#include "ops/gemm/gemm_gpu.h"

namespace xmoe::gpu {

void gemm(const Context&, const Tensor& a, const Tensor& b, const Tensor& c, const GemmOptions& options) {
  cpu::gemm(a, b, c, options);
}

// Rounded twice, as the library may.
void gemm_onto(const Context& ctx, const Tensor& a, const Tensor& b, const Tensor& c, GemmOptions options) {
  const ArenaScope scope(ctx.workspace);
  const Tensor product = ctx.workspace.tensor(c.dtype(), c.shape());
  options.accumulate = false;
  cpu::gemm(a, b, product, options);
  gpu::add(ctx, c, product, c);
}

std::vector<std::function<void()>> gemm_proposals(const Context& ctx, const Tensor& a, const Tensor& b,
                                                  const Tensor& c, const GemmOptions& options) {
  return {[&ctx, a, b, c, options] { gpu::gemm(ctx, a, b, c, options); }};
}

}  // namespace xmoe::gpu
