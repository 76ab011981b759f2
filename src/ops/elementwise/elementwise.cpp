#include "ops/elementwise/elementwise.h"

#include <algorithm>
#include <initializer_list>

#include "device/gpu_built.h"
#include "ops/elementwise/elementwise_cpu.h"
#include "ops/elementwise/elementwise_gpu.h"

namespace xmoe {

namespace {

void check_mix(std::initializer_list<DType> dtypes) {
  const auto any = [&](DType dtype) {
    return std::find(dtypes.begin(), dtypes.end(), dtype) != dtypes.end();
  };
  XMOE_CHECK(!any(DType::bf16) || !any(DType::f16), "bf16 and f16 are not mixed");
}

}  // namespace

void add(const Context& ctx, const Tensor& a, const Tensor& b, const Tensor& out) {
  check_shape(b, a.shape(), "b");
  check_shape(out, a.shape(), "out");
  check_mix({a.dtype(), b.dtype(), out.dtype()});
  if (ctx.device().is_cpu()) return cpu::add(a, b, out);
  if constexpr (kGpuBuilt) return gpu::add(ctx, a, b, out);
  fail_not_built("add", ctx.device());
}

void convert(const Context& ctx, const Tensor& from, const Tensor& to) {
  check_shape(to, from.shape(), "to");
  check_mix({from.dtype(), to.dtype()});
  if (ctx.device().is_cpu()) return cpu::convert(from, to);
  if constexpr (kGpuBuilt) return gpu::convert(ctx, from, to);
  fail_not_built("convert", ctx.device());
}

void fill_zero(const Context& ctx, const Tensor& tensor) {
  if (ctx.device().is_cpu()) return cpu::fill_zero(tensor);
  check_device(ctx.device(), {tensor});
  device_fill(ctx.device(), tensor.raw(), 0, tensor.bytes());
}

void copy(const Context& ctx, const Tensor& from, const Tensor& to) {
  check_shape(to, from.shape(), "to");
  check_dtype(to, from.dtype(), "to");
  if (ctx.device().is_cpu()) return cpu::copy(from, to);
  check_device(ctx.device(), {from, to});
  if (from.raw() != to.raw()) device_copy(ctx.device(), from.raw(), ctx.device(), to.raw(), from.bytes());
}

}  // namespace xmoe
