// The products that the vendor's library computes on a GPU, by the CPU's: device memory is the host's.
#include "device/gpu.h"
#include "ops/gemm/gemm_cpu.h"
#include "ops/gemm/gemm_gpu.h"

namespace xmoe::gpu {

void gemm(const Context&, const Tensor& a, const Tensor& b, const Tensor& c, const GemmOptions& options) {
  cpu::gemm(a, b, c, options);
}

void gemm_onto(const Context&, const Tensor& a, const Tensor& b, const Tensor& c, GemmOptions options) {
  options.accumulate = true;
  cpu::gemm(a, b, c, options);
}

std::vector<std::function<void()>> gemm_proposals(const Context& ctx, const Tensor& a, const Tensor& b,
                                                  const Tensor& c, const GemmOptions& options) {
  return {[&ctx, a, b, c, options] { gpu::gemm(ctx, a, b, c, options); }};
}

}  // namespace xmoe::gpu
