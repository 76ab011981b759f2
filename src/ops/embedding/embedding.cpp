#include "ops/embedding/embedding.h"

#include "device/gpu_built.h"
#include "ops/embedding/embedding_cpu.h"
#include "ops/embedding/embedding_gpu.h"

namespace xmoe {

void embedding_forward(const Context& ctx, const Tensor& ids, const Tensor& table, const Tensor& out) {
  XMOE_CHECK(ids.rank() == 1 && table.rank() == 2, "expected ids [T] and table [V, H], got {} and {}",
             to_string(ids.shape()), to_string(table.shape()));
  check_shape(out, {ids.dim(0), table.dim(1)}, "out");
  check_dtype(ids, DType::i32, "ids");
  check_dtype(out, table.dtype(), "out");
  if (ctx.device().is_cpu()) return cpu::embedding_forward(ids, table, out);
  if constexpr (kGpuBuilt) return gpu::embedding_forward(ctx, ids, table, out);
  fail_not_built("embedding_forward", ctx.device());
}

void embedding_backward(const Context& ctx, const Tensor& ids, const Tensor& dout, const Tensor& dtable) {
  XMOE_CHECK(ids.rank() == 1 && dtable.rank() == 2, "expected ids [T] and dtable [V, H], got {} and {}",
             to_string(ids.shape()), to_string(dtable.shape()));
  check_shape(dout, {ids.dim(0), dtable.dim(1)}, "dout");
  check_dtype(ids, DType::i32, "ids");
  check_dtype(dtable, DType::f32, "dtable");
  if (ctx.device().is_cpu()) return cpu::embedding_backward(ids, dout, dtable);
  if constexpr (kGpuBuilt) return gpu::embedding_backward(ctx, ids, dout, dtable);
  fail_not_built("embedding_backward", ctx.device());
}

}  // namespace xmoe
