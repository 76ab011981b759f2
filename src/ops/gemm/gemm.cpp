#include "ops/gemm/gemm.h"

#include "device/gpu_built.h"
#include "ops/gemm/gemm_cpu.h"
#include "ops/gemm/gemm_gpu.h"

namespace xmoe {

void gemm(const Context& ctx, const Tensor& a, const Tensor& b, const Tensor& c, const GemmOptions& options) {
  XMOE_CHECK(a.rank() == 2 && b.rank() == 2 && c.rank() == 2, "gemm takes matrices, got {}, {} and {}",
             to_string(a.shape()), to_string(b.shape()), to_string(c.shape()));
  const bool ta = options.a == Transpose::yes;
  const bool tb = options.b == Transpose::yes;
  const std::int64_t m = c.dim(0);
  const std::int64_t n = c.dim(1);
  const std::int64_t k = a.dim(ta ? 0 : 1);
  check_shape(a, ta ? Shape{k, m} : Shape{m, k}, "a");
  check_shape(b, tb ? Shape{n, k} : Shape{k, n}, "b");
  check_dtype(b, a.dtype(), "b");
  if (c.dtype() != DType::f32) check_dtype(c, a.dtype(), "c");
  if (ctx.device().is_cpu()) return cpu::gemm(a, b, c, options);
  if constexpr (kGpuBuilt) return gpu::gemm(ctx, a, b, c, options);
  fail_not_built("gemm", ctx.device());
}

}  // namespace xmoe
