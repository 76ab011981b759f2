#include "ops/router/router.h"

#include "device/gpu_built.h"
#include "ops/elementwise/elementwise.h"
#include "ops/gemm/gemm.h"
#include "ops/router/router_gpu.h"

namespace xmoe {

namespace {

void check(const Tensor& x, const Tensor& w, const Tensor& logits) {
  XMOE_CHECK(x.rank() == 2 && w.rank() == 2, "expected x [T, H] and w [E, H], got {} and {}",
             to_string(x.shape()), to_string(w.shape()));
  check_shape(w, {w.dim(0), x.dim(1)}, "w");
  check_shape(logits, {x.dim(0), w.dim(0)}, "logits");
  check_dtype(w, DType::f32, "w");
  check_dtype(logits, DType::f32, "logits");
}

// x in f32: itself, or widened into the workspace.
Tensor as_f32(const Context& ctx, const Tensor& x) {
  if (x.dtype() == DType::f32) return x;
  const Tensor wide = ctx.workspace.tensor(DType::f32, x.shape());
  convert(ctx, x, wide);
  return wide;
}

}  // namespace

void router_logits(const Context& ctx, const Tensor& x, const Tensor& w, const Tensor& logits) {
  check(x, w, logits);
  if constexpr (kGpuBuilt)
    if (!ctx.device().is_cpu() && x.dtype() != DType::f32) return gpu::router_logits(ctx, x, w, logits);
  const ArenaScope scope(ctx.workspace);
  gemm(ctx, as_f32(ctx, x), w, logits, kTimesTransposed);
}

void router_backward(const Context& ctx, const Tensor& dlogits, const Tensor& x, const Tensor& w,
                     const Tensor& dw, const Tensor& dx) {
  check(x, w, dlogits);
  check_shape(dw, w.shape(), "dw");
  check_dtype(dw, DType::f32, "dw");
  check_shape(dx, x.shape(), "dx");
  check_dtype(dx, x.dtype(), "dx");
  if constexpr (kGpuBuilt)
    if (!ctx.device().is_cpu() && x.dtype() != DType::f32)
      return gpu::router_backward(ctx, dlogits, x, w, dw, dx);
  const ArenaScope scope(ctx.workspace);
  gemm(ctx, dlogits, as_f32(ctx, x), dw, kAccumulateTransposed);
  const Tensor product = ctx.workspace.tensor(DType::f32, dx.shape());
  gemm(ctx, dlogits, w, product, {});
  add(ctx, dx, product, dx);
}

}  // namespace xmoe
