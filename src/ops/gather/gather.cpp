#include "ops/gather/gather.h"

#include "device/gpu_built.h"
#include "ops/gather/gather_cpu.h"
#include "ops/gather/gather_gpu.h"

namespace xmoe {

void gather_rows(const Context& ctx, const Tensor& x, const Tensor& index, const Tensor& out) {
  XMOE_CHECK(x.rank() == 2 && index.rank() == 1, "expected x [T, H] and index [B], got {} and {}",
             to_string(x.shape()), to_string(index.shape()));
  check_shape(out, {index.dim(0), x.dim(1)}, "out");
  check_dtype(index, DType::i32, "index");
  check_dtype(out, x.dtype(), "out");
  if (ctx.device().is_cpu()) return cpu::gather_rows(x, index, out);
  if constexpr (kGpuBuilt) return gpu::gather_rows(ctx, x, index, out);
  fail_not_built("gather_rows", ctx.device());
}

void scatter_rows(const Context& ctx, const Tensor& x, const Tensor& index, const Tensor& out) {
  XMOE_CHECK(x.rank() == 2 && out.rank() == 2, "expected x [B, H] and out [T, H], got {} and {}",
             to_string(x.shape()), to_string(out.shape()));
  check_shape(x, {x.dim(0), out.dim(1)}, "x");
  check_shape(index, {x.dim(0)}, "index");
  check_dtype(index, DType::i32, "index");
  check_dtype(out, x.dtype(), "out");
  if (ctx.device().is_cpu()) return cpu::scatter_rows(x, index, out);
  if constexpr (kGpuBuilt) return gpu::scatter_rows(ctx, x, index, out);
  fail_not_built("scatter_rows", ctx.device());
}

void combine_rows(const Context& ctx, const Tensor& rows, const Tensor& index, const Tensor& out) {
  XMOE_CHECK(rows.rank() == 2 && index.rank() == 2, "expected rows [B, H] and index [T, k], got {} and {}",
             to_string(rows.shape()), to_string(index.shape()));
  check_shape(out, {index.dim(0), rows.dim(1)}, "out");
  check_dtype(index, DType::i32, "index");
  check_dtype(out, rows.dtype(), "out");
  if (ctx.device().is_cpu()) return cpu::combine_rows(rows, index, out);
  if constexpr (kGpuBuilt) return gpu::combine_rows(ctx, rows, index, out);
  fail_not_built("combine_rows", ctx.device());
}

}  // namespace xmoe
