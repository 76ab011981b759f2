#include "ops/norm/norm.h"

#include "device/gpu_built.h"
#include "ops/norm/norm_cpu.h"
#include "ops/norm/norm_gpu.h"

namespace xmoe {

namespace {

void check_arguments(NormKind kind, const Tensor& x, const Tensor& weight, const Tensor& stats) {
  XMOE_CHECK(x.rank() == 2 && x.dim(1) > 0, "x: expected [T, H] with H > 0, got {}", to_string(x.shape()));
  check_shape(weight, {x.dim(1)}, "weight");
  check_dtype(weight, x.dtype(), "weight");
  check_shape(stats, {x.dim(0), 2}, "stats");
  check_dtype(stats, DType::f32, "stats");
  XMOE_CHECK(kind == NormKind::rms_norm || kind == NormKind::layer_norm, "unknown norm {}",
             static_cast<int>(kind));
}

void check_output(NormKind kind, const Tensor& x, const Tensor& bias, const Tensor& y) {
  if (kind == NormKind::layer_norm) {
    check_shape(bias, {x.dim(1)}, "bias");
    check_dtype(bias, x.dtype(), "bias");
  }
  check_shape(y, x.shape(), "y");
  check_dtype(y, x.dtype(), "y");
}

}  // namespace

void norm_forward(const Context& ctx, NormKind kind, float epsilon, const Tensor& x, const Tensor& weight,
                  const Tensor& bias, const Tensor& y, const Tensor& stats) {
  check_arguments(kind, x, weight, stats);
  check_output(kind, x, bias, y);
  if (ctx.device().is_cpu()) return cpu::norm_forward(kind, epsilon, x, weight, bias, y, stats);
  if constexpr (kGpuBuilt) return gpu::norm_forward(ctx, kind, epsilon, x, weight, bias, y, stats);
  fail_not_built("norm_forward", ctx.device());
}

void norm_recompute(const Context& ctx, NormKind kind, const Tensor& x, const Tensor& weight,
                    const Tensor& bias, const Tensor& stats, const Tensor& y) {
  check_arguments(kind, x, weight, stats);
  check_output(kind, x, bias, y);
  if (ctx.device().is_cpu()) return cpu::norm_recompute(kind, x, weight, bias, stats, y);
  if constexpr (kGpuBuilt) return gpu::norm_recompute(ctx, kind, x, weight, bias, stats, y);
  fail_not_built("norm_recompute", ctx.device());
}

void norm_backward(const Context& ctx, NormKind kind, const Tensor& dy, const Tensor& x, const Tensor& weight,
                   const Tensor& stats, const Tensor& dx, const Tensor& dweight, const Tensor& dbias) {
  check_arguments(kind, x, weight, stats);
  check_shape(dy, x.shape(), "dy");
  check_dtype(dy, x.dtype(), "dy");
  check_shape(dx, x.shape(), "dx");
  check_dtype(dx, x.dtype(), "dx");
  check_shape(dweight, weight.shape(), "dweight");
  check_dtype(dweight, DType::f32, "dweight");
  if (kind == NormKind::layer_norm) {
    check_shape(dbias, weight.shape(), "dbias");
    check_dtype(dbias, DType::f32, "dbias");
  }
  if (ctx.device().is_cpu())
    return cpu::norm_backward(ctx.workspace, kind, dy, x, weight, stats, dx, dweight, dbias);
  if constexpr (kGpuBuilt) return gpu::norm_backward(ctx, kind, dy, x, weight, stats, dx, dweight, dbias);
  fail_not_built("norm_backward", ctx.device());
}

}  // namespace xmoe
