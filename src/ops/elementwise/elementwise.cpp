#include "ops/elementwise/elementwise.h"

#include "ops/elementwise/elementwise_cpu.h"

namespace xmoe {

void add(const Context& ctx, const Tensor& a, const Tensor& b, const Tensor& out) {
  check_shape(b, a.shape(), "b");
  check_shape(out, a.shape(), "out");
  if (!ctx.device().is_cpu()) fail_not_built("add", ctx.device());
  cpu::add(a, b, out);
}

void convert(const Context& ctx, const Tensor& from, const Tensor& to) {
  check_shape(to, from.shape(), "to");
  if (!ctx.device().is_cpu()) fail_not_built("convert", ctx.device());
  cpu::convert(from, to);
}

void fill_zero(const Context& ctx, const Tensor& tensor) {
  if (!ctx.device().is_cpu()) fail_not_built("fill_zero", ctx.device());
  cpu::fill_zero(tensor);
}

void copy(const Context& ctx, const Tensor& from, const Tensor& to) {
  check_shape(to, from.shape(), "to");
  check_dtype(to, from.dtype(), "to");
  if (!ctx.device().is_cpu()) fail_not_built("copy", ctx.device());
  cpu::copy(from, to);
}

}  // namespace xmoe
