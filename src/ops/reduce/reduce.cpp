#include "ops/reduce/reduce.h"

#include "ops/reduce/reduce_cpu.h"

namespace xmoe {

double sum(const Context& ctx, const Tensor& x) {
  check_dtype(x, DType::f32, "x");
  if (!ctx.device().is_cpu()) fail_not_built("sum", ctx.device());
  return cpu::sum(ctx.workspace, x);
}

double sum_of_squares(const Context& ctx, const Tensor& x) {
  check_dtype(x, DType::f32, "x");
  if (!ctx.device().is_cpu()) fail_not_built("sum_of_squares", ctx.device());
  return cpu::sum_of_squares(ctx.workspace, x);
}

}  // namespace xmoe
