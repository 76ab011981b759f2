#include "ops/adamw/adamw.h"

#include "ops/adamw/adamw_cpu.h"
#include "ops/adamw/adamw_gpu.h"

namespace xmoe {

void adamw(const Context& ctx, const AdamWOptions& options, const Tensor& grad, const Tensor& master,
           const Tensor& m, const Tensor& v, const Tensor& value) {
  XMOE_CHECK(options.step >= 1, "steps of AdamW count from 1, got {}", options.step);
  XMOE_CHECK(grad.rank() == 1, "grad: expected one dimension, got {}", to_string(grad.shape()));
  check_shape(master, grad.shape(), "master");
  check_shape(m, grad.shape(), "m");
  check_shape(v, grad.shape(), "v");
  check_shape(value, grad.shape(), "value");
  check_dtype(grad, DType::f32, "grad");
  check_dtype(master, DType::f32, "master");
  check_dtype(m, DType::f32, "m");
  check_dtype(v, DType::f32, "v");
  XMOE_CHECK(value.dtype() != DType::f32 || value.raw() == master.raw(),
             "an f32 value must be the same memory as its master");
  if (ctx.device().is_cpu()) return cpu::adamw(options, grad, master, m, v, value);
  if constexpr (kGpuBuilt) return gpu::adamw(ctx, options, grad, master, m, v, value);
  fail_not_built("adamw", ctx.device());
}

}  // namespace xmoe
