#include "ops/adamw/adamw.h"

#include "device/gpu_built.h"
#include "ops/adamw/adamw_cpu.h"
#include "ops/adamw/adamw_gpu.h"

namespace xmoe {

namespace {

void check_moment(const Tensor& tensor, const char* name) {
  XMOE_CHECK(tensor.dtype() == DType::f32 || tensor.dtype() == DType::bf16,
             "{}: expected f32 or bf16, got {}", name, name_of(tensor.dtype()));
}

}  // namespace

void adamw(const Context& ctx, const AdamWOptions& options, const Tensor& grad, const Tensor& value,
           const Tensor& remainder, const Tensor& m, const Tensor& v) {
  XMOE_CHECK(options.step >= 1, "steps of AdamW count from 1, got {}", options.step);
  XMOE_CHECK(grad.rank() == 1, "grad: expected one dimension, got {}", to_string(grad.shape()));
  check_shape(value, grad.shape(), "value");
  check_shape(m, grad.shape(), "m");
  check_shape(v, grad.shape(), "v");
  if (value.dtype() != DType::bf16 || grad.dtype() != DType::bf16) check_dtype(grad, DType::f32, "grad");
  XMOE_CHECK(is_float(value.dtype()), "value: expected f32, bf16 or f16, got {}", name_of(value.dtype()));
  check_moment(m, "m");
  check_moment(v, "v");
  if (value.dtype() != DType::f32) {
    check_shape(remainder, grad.shape(), "remainder");
    check_dtype(remainder, DType::i16, "remainder");
  } else {
    XMOE_CHECK(!remainder.defined(), "an f32 value has no remainder");
  }
  if (ctx.device().is_cpu()) return cpu::adamw(options, grad, value, remainder, m, v);
  if constexpr (kGpuBuilt) return gpu::adamw(ctx, options, grad, value, remainder, m, v);
  fail_not_built("adamw", ctx.device());
}

}  // namespace xmoe
