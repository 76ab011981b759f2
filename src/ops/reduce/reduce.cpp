#include "ops/reduce/reduce.h"

#include "device/gpu_built.h"
#include "ops/reduce/reduce_cpu.h"
#include "ops/reduce/reduce_gpu.h"

namespace xmoe {

double sum(const Context& ctx, const Tensor& x) {
  check_dtype(x, DType::f32, "x");
  if (ctx.device().is_cpu()) return cpu::sum(ctx.workspace, x);
  if constexpr (kGpuBuilt) return gpu::sum(ctx, x);
  fail_not_built("sum", ctx.device());
}

double sum_of_squares(const Context& ctx, const Tensor& x) { return sum_of_squares(ctx, std::span(&x, 1)); }

double sum_of_squares(const Context& ctx, std::span<const Tensor> tensors) {
  for (const Tensor& x : tensors)
    XMOE_CHECK(x.dtype() == DType::f32 || x.dtype() == DType::bf16, "x: expected f32 or bf16, got {}",
               name_of(x.dtype()));
  if (ctx.device().is_cpu()) {
    double total = 0.0;
    for (const Tensor& x : tensors) total += cpu::sum_of_squares(ctx.workspace, x);
    return total;
  }
  if constexpr (kGpuBuilt) return gpu::sum_of_squares(ctx, tensors);
  fail_not_built("sum_of_squares", ctx.device());
}

}  // namespace xmoe
