#include "ops/cross_entropy/cross_entropy.h"

#include "device/gpu_built.h"
#include "ops/cross_entropy/cross_entropy_cpu.h"
#include "ops/cross_entropy/cross_entropy_gpu.h"

namespace xmoe {

void merge_statistics(const Context& ctx, const Tensor& parts, const Tensor& merged) {
  XMOE_CHECK(parts.rank() == 3 && parts.dim(2) == 3, "expected parts [slices, rows, 3], got {}",
             to_string(parts.shape()));
  check_dtype(parts, DType::f32, "parts");
  check_shape(merged, {parts.dim(1), 3}, "merged");
  check_dtype(merged, DType::f32, "merged");
  if (ctx.device().is_cpu()) return cpu::merge_statistics(parts, merged);
  if constexpr (kGpuBuilt) return gpu::merge_statistics(ctx, parts, merged);
  fail_not_built("merge_statistics", ctx.device());
}

void linear_cross_entropy(const Context& ctx, const Tensor& x, const Tensor& w, std::int64_t vocabulary,
                          const Tensor& targets, const Tensor& losses, float grad_scale, const Tensor& dx,
                          const Tensor& dw, const VocabularySlice* slice) {
  XMOE_CHECK(x.rank() == 2 && w.rank() == 2, "linear_cross_entropy takes matrices, got {} and {}",
             to_string(x.shape()), to_string(w.shape()));
  XMOE_CHECK(is_float(x.dtype()), "x: expected f32, bf16 or f16, got {}", name_of(x.dtype()));
  check_dtype(w, x.dtype(), "w");
  check_shape(w, {w.dim(0), x.dim(1)}, "w");
  XMOE_CHECK((slice != nullptr ? 0 : 1) <= vocabulary && vocabulary <= w.dim(0),
             "vocabulary {} of {} rows of w", vocabulary, w.dim(0));
  check_shape(targets, {x.dim(0)}, "targets");
  check_dtype(targets, DType::i32, "targets");
  check_shape(losses, {x.dim(0)}, "losses");
  check_dtype(losses, DType::f32, "losses");
  XMOE_CHECK(dx.defined() == dw.defined(), "dx and dw are wanted both or neither");
  if (dx.defined()) {
    check_shape(dx, x.shape(), "dx");
    check_dtype(dx, x.dtype(), "dx");
    check_shape(dw, w.shape(), "dw");
    check_dtype(dw, DType::f32, "dw");
  }
  if (ctx.device().is_cpu())
    return cpu::linear_cross_entropy(ctx, x, w, vocabulary, targets, losses, grad_scale, dx, dw, slice);
  if constexpr (kGpuBuilt)
    return gpu::linear_cross_entropy(ctx, x, w, vocabulary, targets, losses, grad_scale, dx, dw, slice);
  fail_not_built("linear_cross_entropy", ctx.device());
}

}  // namespace xmoe
